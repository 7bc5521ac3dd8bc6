"""Twisted plugins: the command ``twistd pushd``, and the endpoint ``reuseport:PORT``.

This folder must not contain an ``__init__.py``: it would hide Twisted's own plugins.
"""

from typing import Any

from twisted.application.service import ServiceMaker

from pushd.service.process.early_signals import note_hangups
from pushd.service.reuse_port import ReusePortParser


class PushdMaker(ServiceMaker):
    """Makes the service, and notes SIGHUP from before the import of the daemon."""

    @property
    def options(self) -> Any:
        """The class of the options; twistd asks for it if it is to run this service."""
        note_hangups()
        return super().options


pushd = PushdMaker(
    "pushd",
    "pushd.service",
    "A push daemon: views and topics over WebSocket, Server-Sent Events and HTTP",
    "pushd",
)

reuse_port = ReusePortParser()
