"""Counts of work, for tests of what code costs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sized
from types import FrameType
from typing import Any

from twisted.internet.task import Clock


def calls_of(work: Callable[[], object], within: str = "") -> int:
    """Return the number of function calls that some work takes.

    :param within: counts only those of functions in files whose path has this, and what they call
        that is written in C. A test's clock sorts its delayed calls again and again.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call") and within in frame.f_code.co_filename

    before, collects = sys.getprofile(), gc.isenabled()
    # What finalizers of other tests call does not count.
    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return calls


def results_per_call(clock: Clock, results: Sized) -> list[int]:
    """Make a clock's delayed calls, all of which must be due; return how many results each adds."""
    added = []
    while clock.calls:
        call: Any = clock.calls.pop(0)
        assert call.getTime() <= clock.seconds(), f"{call} is not due"
        before = len(results)
        call.func(*call.args)
        added.append(len(results) - before)
    return added
