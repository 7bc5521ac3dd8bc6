"""Tests of pushd/topics."""
