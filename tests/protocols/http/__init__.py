"""Tests of pushd/protocols/http."""
