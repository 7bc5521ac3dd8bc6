"""Waiting for sockets without sleeping.

On the loopback interface the sender wakes a receiver that sleeps, within its system call. On a
virtual machine this can take longer than all else that a small message costs, it depends on how
long the receiver has slept, and a server whose clients are elsewhere never pays it. So clients
poll while the CPU time of a server is measured, unless it needs their core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Events = TypeVar("Events", bound=Sequence[Any])


def await_events(
    poll: Callable[[float], Events], timeout: float, *, sleeps: bool = False
) -> Events:
    """Call ``poll`` until it returns any events, or until the time-out is over.

    :param poll: takes the seconds that it may wait for events.
    :param timeout: in seconds.
    :param sleeps: whether to sleep all the same; if there is only one core, which the server needs,
        it does so in any case.
    """
    if sleeps or len(os.sched_getaffinity(0)) < 2:
        return poll(timeout)
    end = time.monotonic() + timeout
    while not (events := poll(0)) and time.monotonic() < end:
        pass
    return events
