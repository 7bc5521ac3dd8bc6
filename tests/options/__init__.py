"""Tests of pushd/options."""
