"""Inbox: messages that have arrived on a WebSocket and have not been read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from sys import getsizeof
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pushd.schedule.coroutine import CheapAwaitable

# The inbox is full at this number of bytes, whatever the number of messages: 64 messages of the
# largest size would take 64 MiB.
_MAX_BYTES = 1 << 20

#: The most that is read of what a lost connection has received, in bytes.
MAX_REST = 2 * _MAX_BYTES

# What a message takes in memory beside its text, in bytes: a tuple, its objects, and its place.
_OVERHEAD = 160

# Text beyond ASCII that is longer than this is kept in UTF-8: as str, a single emoji makes each of
# its characters take four bytes.
_ENCODED_FROM = 1024


class Source(Protocol):
    """Where messages come from: a connection whose reading can be paused."""

    def message_kept(self, size: int) -> None:
        """Note that a message waits to be read, which takes a number of bytes."""

    def pause_reading(self) -> None:
        """Deliver no more messages until reading is resumed."""

    def resume_reading(self) -> None:
        """Deliver what has arrived in the meantime, and read on."""


class NextMessage(Deferred[str | bytes | None]):
    """What a task awaits that waits for a message."""

    inbox: Inbox

    def give_back(self, message: str | bytes | None) -> None:
        """Put a message back that this has fired with: the task was cancelled meanwhile."""
        if message is not None:
            self.inbox.put_back(message)


class Inbox(CheapAwaitable):
    """Messages in the order in which they arrived, and the one task that waits for the next.

    A task waits with ``wait``, or awaits the inbox itself, which takes no Deferred.

    A full inbox pauses reading, so that TCP holds the peer; at half of that, reading resumes. What
    is in it can be read after the connection has ended, too.

    If it ``gathers``, the task goes on only when all that has arrived together is in the inbox.

    :param clock: for time-outs.
    :param capacity: the number of messages at which it is full.
    """

    __slots__ = (
        "_capacity",
        "_clock",
        "_paused",
        "_resume",
        "_size",
        "_timer",
        "gathers",
        "messages",
        "source",
        "waiter",
    )

    def __init__(self, clock: IReactorTime, capacity: int) -> None:
        self._clock = clock
        self._capacity = capacity
        #: What can be read: as it is kept, the bytes that takes, and whether it must be decoded.
        #: A deque from the first message on that has to wait: an empty one takes half a KiB.
        self.messages: deque[tuple[str | bytes, int, bool]] | tuple[()] = ()
        self._size = 0
        self._paused = False
        #: Whether ``deliver_gathered`` is called after each read.
        self.gathers = False
        #: The connection, while it is open.
        self.source: Source | None = None
        #: What a task awaits for the next message: a Deferred or the inbox itself.
        self.waiter: NextMessage | Inbox | None = None
        # Called with the next message, or with None at the end.
        self._resume: Callable[[str | bytes | Failure | None], object] | None = None
        self._timer: IDelayedCall | None = None

    def put(self, message: str | bytes) -> None:
        """Deliver a message to the task that waits for it, or keep it."""
        resume = self._resume
        if resume is not None and not self.gathers:
            if self._timer is None:
                self.waiter = self._resume = None
            else:
                self._stop_waiting()
            resume(message)
            return
        if isinstance(self.messages, tuple):
            self.messages = deque()
        kept, size, encoded = message, len(message), False
        if isinstance(message, str) and not message.isascii():
            if size > _ENCODED_FROM:
                kept, encoded = message.encode(), True
                size = len(kept)
            else:
                size = getsizeof(message)
        self.messages.append((kept, size, encoded))
        self._size += size
        source = self.source
        if source is not None:
            source.message_kept(size + _OVERHEAD)
            if not self._paused and self._is_full():
                self._paused = True
                source.pause_reading()

    def deliver_gathered(self) -> None:
        """Deliver the first of several messages to the task that waits, if it does."""
        resume = self._resume
        if resume is not None and self.messages:
            self._stop_waiting()
            resume(self.take())

    def put_back(self, message: str | bytes) -> None:
        """Put a message back that came before all others, or give it to the task that waits."""
        if self.waiter is not None:
            self.put(message)
            self.deliver_gathered()
            return
        others, self.messages = self.messages, deque[tuple[str | bytes, int, bool]]()
        self.put(message)
        self.messages.extend(others)

    def take(self) -> str | bytes:
        """Take the next message; there must be one."""
        assert isinstance(self.messages, deque)
        message, size, encoded = self.messages.popleft()
        self._size -= size
        if encoded:
            assert isinstance(message, bytes)
            message = message.decode()
        if self._paused and self._is_half_empty() and self.source is not None:
            self._paused = False
            self.source.resume_reading()
        return message

    def wait(self, timeout: float | None) -> NextMessage:
        """Return a Deferred that fires with the next message, or with None at the end.

        The inbox must be empty, and no other task may wait.

        :param timeout: seconds until it fails with TimeoutError.
        """
        if timeout is not None:
            # First, as the clock may refuse it.
            self._timer = self._clock.callLater(timeout, self._time_out, timeout)
        waiter = self.waiter = NextMessage(self._stop_waiting)
        waiter.inbox = self
        self._resume = waiter.callback
        return waiter

    def as_deferred(self) -> Deferred[Any]:
        """Wait as ``wait`` does: for what can only await Deferreds."""
        return self.wait(None)

    def start(self, resume: Callable[..., object]) -> None:
        """Wait for the next message, as ``wait`` does; called for what awaits the inbox."""
        self.waiter, self._resume = self, resume

    def cancel(self) -> None:
        """Raise CancelledError where a task awaits the inbox."""
        resume = self._resume
        if resume is not None:
            self._stop_waiting()
            resume(Failure(CancelledError()))

    @property
    def memory(self) -> int:
        """The memory that the messages take, in bytes."""
        return self._size + _OVERHEAD * len(self.messages)

    @property
    def takes_rest(self) -> bool:
        """Whether it has room for what is left to read of a lost connection: up to 2 MiB.

        The number of messages is not limited then, as pausing would not hold the peer any more, but
        what each takes beside its text counts.
        """
        return self.memory < MAX_REST

    def clear(self) -> None:
        """Drop all messages."""
        self.messages, self._size = (), 0

    def end(self) -> None:
        """Tell the task that waits that no message will come, or deliver what was gathered."""
        if self.messages:
            self.deliver_gathered()
            return
        resume = self._resume
        if resume is not None:
            self._stop_waiting()
            resume(None)

    def _is_full(self) -> bool:
        return len(self.messages) >= self._capacity or self._size >= _MAX_BYTES

    def _is_half_empty(self) -> bool:
        return len(self.messages) <= self._capacity // 2 and self._size <= _MAX_BYTES // 2

    def _stop_waiting(self, _: object = None) -> None:
        timer = self._timer
        self.waiter = self._resume = self._timer = None
        if timer is not None and timer.active():
            timer.cancel()

    def _time_out(self, timeout: float) -> None:
        resume = self._resume
        assert resume is not None  # Or the timer would have been stopped.
        self._stop_waiting()
        resume(Failure(TimeoutError(f"no message within {timeout:g} s")))
