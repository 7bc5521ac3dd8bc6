"""Teach twistd the word pushd, and endpoints the word reuseport.

This folder must never hold an __init__.py.
"""

from twisted.application.service import ServiceMaker

from pushd.service.reuse_port import ReusePortParser

pushd = ServiceMaker(
    "pushd",
    "pushd.service",
    "A push daemon: views over WebSocket and HTTP; the server talks first",
    "pushd",
)

reuse_port = ReusePortParser()
