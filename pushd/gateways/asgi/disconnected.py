"""What an application gets that sends to a client that has left."""

from __future__ import annotations


class ClientDisconnected(OSError):
    """The client has left (ASGI 2.4); frameworks know it as OSError."""
