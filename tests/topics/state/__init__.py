"""Tests of pushd.topics.state."""
