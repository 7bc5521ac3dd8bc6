"""Lets a daemon lose publications, so that the soak test can be seen to find it."""

from __future__ import annotations

from itertools import count
from typing import Any

from pushd.protocols.websocket import subscriber
from pushd.protocols.websocket.frames import message
from tests.soak.echo_views import views

__all__ = ["views"]

# One publication of so many is lost.
_LOST = 30

_numbers = count(1)


def _lose(payload: bytes, *, binary: bool, window_bits: int) -> bytes:
    """Make the frame of a publication, or none."""
    frame = message(payload, binary=binary, window_bits=window_bits)
    return b"" if next(_numbers) % _LOST == 0 else frame


# The module has it as a name of its own.
_subscriber: Any = subscriber
_subscriber.message = _lose
