"""Tests of pushd/views."""
