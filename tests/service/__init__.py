"""Tests of pushd/service."""
