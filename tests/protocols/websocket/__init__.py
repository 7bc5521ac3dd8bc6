"""Tests of pushd/protocols/websocket."""
