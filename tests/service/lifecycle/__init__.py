"""Tests of pushd/service/lifecycle."""
