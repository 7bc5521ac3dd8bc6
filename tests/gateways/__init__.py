"""Tests of pushd/gateways."""
