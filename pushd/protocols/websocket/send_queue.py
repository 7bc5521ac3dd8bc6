"""Send queue: what waits until a WebSocket's connection can take more."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.defer import Deferred


class Resumable(Protocol):
    """A subscriber that has more to send than there was room for."""

    def resume(self) -> None:
        """Send on, as far as there is room."""


class SendQueue:
    """Tasks that await their ``send``, and subscribers that have more to send, in order.

    The messages themselves are in the transport's buffer. While that is full the queue is paused.
    """

    __slots__ = ("_senders", "_subscribers", "paused")

    def __init__(self) -> None:
        #: Whether the transport's buffer is full.
        self.paused = False
        self._senders: deque[Deferred[None]] | tuple[()] = ()
        self._subscribers: dict[Resumable, None] = {}

    def __len__(self) -> int:
        return len(self._senders) + len(self._subscribers)

    def wait(self) -> Deferred[None]:
        """Return a Deferred that fires when there is room again."""
        if isinstance(self._senders, tuple):
            self._senders = deque()
        sender: Deferred[None] = Deferred(self._senders.remove)
        self._senders.append(sender)
        return sender

    def add(self, subscriber: Resumable) -> None:
        """Resume a subscriber when there is room again."""
        self._subscribers[subscriber] = None

    def discard(self, subscriber: Resumable) -> None:
        """Forget a subscriber."""
        self._subscribers.pop(subscriber, None)

    def pause(self) -> None:
        """Note that the transport's buffer is full."""
        self.paused = True

    def resume(self) -> None:
        """Let those go on who wait, in order, until the buffer is full again."""
        self.paused = False
        while self._senders and not self.paused:
            assert isinstance(self._senders, deque)
            self._senders.popleft().callback(None)
        while self._subscribers and not self.paused:
            waiting, self._subscribers = self._subscribers, {}
            while waiting and not self.paused:
                subscriber = next(iter(waiting))
                del waiting[subscriber]
                # It returns to the end of the line if it has more to send than there is room for.
                subscriber.resume()
            self._subscribers = waiting | self._subscribers
