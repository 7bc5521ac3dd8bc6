"""Time that only goes forward, whatever is done to the clock on the wall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_steady(reactor: Any, monotonic: Callable[[], float]) -> None:
    """Let the time of a Twisted reactor go by a clock that nobody sets.

    As it comes, it goes by the clock on the wall. When that is set back by an hour, all that waits
    waits an hour more; when it is set forward, an hour of pushes is due at once. Now it goes on
    from what the wall says at this moment, so it may differ from it later: who needs the time of
    day asks for that.

    :param monotonic: seconds from any moment on.
    """
    offset = reactor.seconds() - monotonic()
    reactor.seconds = lambda: monotonic() + offset
