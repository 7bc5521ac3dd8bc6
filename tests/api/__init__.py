"""Tests of pushd/api."""
