"""Tests of pushd/testing."""
