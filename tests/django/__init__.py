"""Tests of pushd/django."""
