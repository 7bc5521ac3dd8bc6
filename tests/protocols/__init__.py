"""Tests of pushd/protocols."""
