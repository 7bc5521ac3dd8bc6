"""Twisted plugins: the command ``twistd pushd``, and the endpoint ``reuseport:PORT``.

This folder must not contain an ``__init__.py``: it would hide Twisted's own plugins.
"""

from twisted.application.service import ServiceMaker

from pushd.service.reuse_port import ReusePortParser

pushd = ServiceMaker(
    "pushd",
    "pushd.service",
    "A push daemon: views and topics over WebSocket, Server-Sent Events and HTTP",
    "pushd",
)

reuse_port = ReusePortParser()
