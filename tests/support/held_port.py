"""A port that is reserved for a process that has not started yet."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Hold a port of 127.0.0.1 without listening there.

    The kernel does not give it to a process that asks for any port, and connections to it are
    refused, until a process listens on this very number, with SO_REUSEADDR as servers do.
    """
    with socket.socket() as holder:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
