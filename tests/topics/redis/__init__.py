"""Tests of pushd/topics/redis."""
