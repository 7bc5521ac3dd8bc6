"""What tells that a message is on its way, at less than the price of a Deferred."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from twisted.internet.defer import Deferred


class Sent(Deferred[None]):
    """A Deferred that has fired, as ``succeed(None)`` gives it, for a third of its price.

    Every message has one, and hardly anybody looks at it. What Twisted sets in each stands in the
    class here, or is made when somebody asks: attributes of its own, which nothing else touches.
    """

    called = True
    result = None

    _canceller = None

    def __init__(self) -> None:
        pass

    @cached_property
    def _callbacks(self) -> list[Any]:  # type: ignore[override]  # Twisted assigns it.
        return []
