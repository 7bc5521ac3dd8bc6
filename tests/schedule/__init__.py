"""Tests of pushd/schedule."""
