"""Teach twistd the word pushd. This folder must never hold an __init__.py."""

from twisted.application.service import ServiceMaker

pushd = ServiceMaker(
    "pushd",
    "pushd.service",
    "A push daemon: views over WebSocket and HTTP; the server talks first",
    "pushd",
)
