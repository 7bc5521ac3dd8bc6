"""BodyStream: the body of a request that is answered while it still arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

# Bytes that wait for the application at which reading pauses, so that TCP holds the client.
_FULL = 1 << 16


class BodyStream:
    """Parts of a body, in the order in which they arrived, until the application reads them.

    :param pause, resume: stop and continue reading from the connection.
    """

    def __init__(self, pause: Callable[[], object], resume: Callable[[], object]) -> None:
        self._pause = pause
        self._resume = resume
        self._parts: deque[bytes] = deque()
        self._notify: Callable[[], object] | None = None
        #: The number of bytes that have arrived, and of those that have not been read.
        self.arrived = self.kept = 0
        #: Whether the last byte has arrived.
        self.complete = False
        #: Whether reading pauses until the application has read.
        self.full = False

    @property
    def has_news(self) -> bool:
        """Whether ``take`` has something to say: a part has arrived, or the body is complete."""
        return self.complete or self.kept > 0

    def take(self) -> tuple[bytes, bool]:
        """Return what has arrived and was not read, and whether more may follow."""
        data = b"".join(self._parts)
        self._parts.clear()
        self.kept = 0
        if self.full:
            self.full = False
            self._resume()
        return data, not self.complete

    def on_news(self, notify: Callable[[], object]) -> None:
        """Call a function, once, at the next part or the end of the body."""
        self._notify = notify

    # What the request calls

    def put(self, data: bytes) -> None:
        """Keep a part that has arrived."""
        self._parts.append(data)
        self.arrived += len(data)
        self.kept += len(data)
        if self.kept >= _FULL and not self.full:
            self.full = True
            self._pause()
        self._tell()

    def end(self) -> None:
        """Note that the body has arrived as a whole."""
        self.complete = True
        self._tell()

    def clear(self) -> None:
        """Drop what was not read: the request has been refused."""
        self._parts.clear()
        self.kept = 0
        self.full = False

    def _tell(self) -> None:
        notify, self._notify = self._notify, None
        if notify is not None:
            notify()
