"""Tests of pushd/django/management."""
