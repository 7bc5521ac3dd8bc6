"""Tests of pushd/api/subscribe."""
