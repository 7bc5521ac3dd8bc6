"""Tests of pushd/django/management/commands."""
