"""Tests of pushd/api/centrifuge."""
