"""Tests of pushd/access."""
