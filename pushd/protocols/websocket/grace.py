"""The grace of a WebSocket's view: what it may still call after the end of the conversation."""

from __future__ import annotations

#: A caller that makes this number of calls after the end, and reads no message in between, would
#: keep the reactor or a thread busy until its grace is over: it is ended at once.
MAX_CALLS = 10_000

#: What a call costs that tells of the end, such as a ``wait`` that gives None. All others cost 1.
TELLING_COST = 100

#: Seconds until a refused call on the reactor raises, so that a loop that ignores its error leaves
#: the reactor free.
THROTTLE = 0.1

#: A view on the reactor that ignores this number of refusals, or of cancellations, is dropped.
MAX_IGNORED = 100

# Calls of other code than the view are never refused, but may be in endless loops, too: every so
# many take THROTTLE, and after so many that told of the end each takes longer than the one before.
_OTHERS_PAUSE = 1000
_OTHERS_TOLD = 100


class Grace:
    """Begins at the end of a conversation, and is over after a time or too many calls.

    The run of the view keeps the time. Calls are counted, as a loop of calls that never waits would
    give it no chance.
    """

    __slots__ = (
        "_others_calls",
        "_others_told",
        "_spent",
        "has_told_end",
        "is_over",
        "refusals",
        "view_dropped",
    )

    def __init__(self) -> None:
        #: Whether the time is over.
        self.is_over = False
        #: Whether a call has told the view that the conversation is over.
        self.has_told_end = False
        #: The number of calls of the view that were refused.
        self.refusals = 0
        #: Whether the view ignored that too often, and was given up.
        self.view_dropped = False
        # What the calls since the last message have cost.
        self._spent = 0
        # The calls of other code, and those of them that told of the end.
        self._others_calls = 0
        self._others_told = 0

    def allows(self, cost: int = 1) -> bool:
        """Count a call; return whether the number of calls is still within the limit."""
        self._spent += cost
        return self._spent <= MAX_CALLS

    def delay_others(self, *, tells_end: bool) -> float:
        """Count a call of other code than the view; return how many seconds it must take."""
        if tells_end:
            self._others_told += 1
            return THROTTLE * max(0, self._others_told - _OTHERS_TOLD)
        self._others_calls += 1
        return 0 if self._others_calls % _OTHERS_PAUSE else THROTTLE

    def message_read(self) -> None:
        """Start counting anew: what reads messages comes to an end."""
        self._spent = 0
