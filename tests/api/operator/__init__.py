"""Tests of pushd/api/operator."""
