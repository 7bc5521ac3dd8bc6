"""Tests of pushd/service/process."""
