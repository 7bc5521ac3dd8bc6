"""Work, counted."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Sized
from types import FrameType
from typing import Any

from twisted.internet.task import Clock

# What an f-string does with each value, by the names of several versions of Python.
_MAKING_STRINGS = {"FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC"}


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of functions some work takes."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    _watch(work, count, sys.getprofile, sys.setprofile)
    return calls


def strings_of(work: Callable[[], object]) -> list[str]:
    """Which functions of pushd put strings together for some work, once for each time."""
    made: list[str] = []

    def look(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_globals.get("__name__", "").startswith("pushd."):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code = frame.f_code
        if event == "opcode" and dis.opname[code.co_code[frame.f_lasti]] in _MAKING_STRINGS:
            made.append(code.co_name)
        return look

    _watch(work, look, sys.gettrace, sys.settrace)
    return made


def _watch(
    work: Callable[[], object], watcher: Any, get: Callable[[], Any], put: Callable[[Any], object]
) -> None:
    """Do some work with a watcher in its place, and leave the place as it was."""
    before = get()
    put(watcher)
    try:
        work()
    finally:
        put(before)


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
