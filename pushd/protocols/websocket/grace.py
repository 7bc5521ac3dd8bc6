"""The grace of a WebSocket's view: what it may still call after the end of the conversation."""

from __future__ import annotations

#: A caller that makes this number of calls after the end, and reads no message in between, would
#: keep the reactor or a thread busy until its grace is over: it is ended at once.
MAX_CALLS = 10_000

#: What a call costs that tells of the end, such as a ``wait`` that gives None. All others cost 1.
TELLING_COST = 100


class Grace:
    """Begins at the end of a conversation, and is over after a time or too many calls.

    The run of the view keeps the time. Calls are counted, as a loop of calls that never waits would
    give it no chance.
    """

    __slots__ = ("_spent", "has_told_end", "is_over")

    def __init__(self) -> None:
        #: Whether the time is over.
        self.is_over = False
        #: Whether a call has told the view that the conversation is over.
        self.has_told_end = False
        # What the calls since the last message have cost.
        self._spent = 0

    def allows(self, cost: int = 1) -> bool:
        """Count a call; return whether the number of calls is still within the limit."""
        self._spent += cost
        return self._spent <= MAX_CALLS

    def message_read(self) -> None:
        """Start counting anew: what reads messages comes to an end."""
        self._spent = 0
