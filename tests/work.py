"""Work, counted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sized
from typing import Any

from twisted.internet.task import Clock


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of functions some work takes."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def turns_of(clock: Clock, done: Sized) -> list[int]:
    """Make the calls of a clock, all of which are to be due; how much is done in each."""
    turns = []
    while clock.calls:
        call: Any = clock.calls.pop(0)
        assert call.getTime() <= clock.seconds(), f"{call} is not due"
        before = len(done)
        call.func(*call.args)
        turns.append(len(done) - before)
    return turns
