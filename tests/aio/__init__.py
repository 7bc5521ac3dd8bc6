"""Tests of pushd/aio."""
