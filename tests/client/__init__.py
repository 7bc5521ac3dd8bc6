"""Tests of pushd/client."""
