"""What is written in one turn of the reactor, and leaves together at its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from twisted.logger import Logger

from pushd.protocols.transport import (
    LAST,
    DirectWriter,
    WriteListener,
    lose,
    sender,
    takes_direct_writes,
)

_log = Logger(namespace="pushd.protocols")

# So many pieces are held at most, and none that is longer, in bytes: nobody is to wait for long,
# and a long one is dear by itself.
_MOST = 32
_SHORT = 4096


class Writes(Protocol):
    """What can be written to."""

    def write(self, data: bytes) -> object:
        """Write."""


class Cork:
    """Holds what is written while many have something to say, and hands it to the kernel at once.

    To wake a reader costs several times what the rest of a short ``send`` does. Where sockets are
    written to one right after the other, those who read them are awake for all but the first.

    Holding begins and ends with ``with``. Outside of that, what is written leaves at once. What one
    connection is given leaves in its order. Ends come last, one by one, as each may make others
    write, or end: to write never does, so nobody is interrupted by somebody else's news.
    """

    __slots__ = ("_ends", "_words", "depth")

    def __init__(self) -> None:
        #: Within how many ``with`` it is: what is written is held within any.
        self.depth = 0
        # By which writer, what is said, and flags for the kernel.
        self._words: deque[tuple[DirectWriter, bytes, int]] = deque()
        # The transports that are to be closed.
        self._ends: deque[Any] = deque()

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # What comes of it is held as well, behind all that is held already.
            while self.depth == 1 and (self._words or self._ends):
                self.flush()
                if self._ends:
                    self._end(self._ends.popleft())
        finally:
            self.depth -= 1

    def writer(self, transport: Any, listener: WriteListener) -> Writes:
        """What writes to a transport in the quickest way.

        Past its ``write`` where it is Twisted's own and hands what it gets to the socket as it is;
        with TLS, and with what only looks like it, there is no other way.
        """
        if takes_direct_writes(transport):
            return CorkedWriter(self, transport, listener)
        written: Writes = transport
        return written

    def sender(self, transport: Any) -> Callable[[bytes], int] | None:
        """The ``send`` of a transport's socket, where what it takes follows all that was written.

        None where something waits before the socket, and where there is none that takes it as it
        is. It is good until the connection ends, or until something waits, of which the speaker is
        told, and only right after ``flush``.
        """
        self.flush()
        return sender(transport)

    def lose(self, transport: Any) -> None:
        """Close a connection once all is sent; ``connectionLost`` may be called before it returns.

        If its last words are held, its end goes with them, in one segment.
        """
        if not (self.depth and takes_direct_writes(transport)):
            lose(transport)
            return
        if self._words and self._words[-1][0].transport is transport:
            writer, data, _ = self._words.pop()
            self._words.append((writer, data, LAST))
        self._ends.append(transport)

    def flush(self) -> None:
        """Let out what was written, before something that goes straight to a socket."""
        words = self._words
        while words:
            writer, data, flags = words.popleft()
            try:
                writer.write_now(data, flags)
            except Exception:  # The others are not to notice.
                self._failed(writer.transport)

    def hold(self, writer: DirectWriter, data: bytes) -> None:
        """Keep what is to be written, within ``with``."""
        self._words.append((writer, data, 0))
        if len(self._words) >= _MOST or len(data) > _SHORT:
            self.flush()

    def _end(self, transport: Any) -> None:
        try:
            lose(transport)
        except Exception:  # Likewise.
            self._failed(transport)

    def _failed(self, transport: Any) -> None:
        _log.failure(
            "failed to serve {peer}",
            event="connection_failed",
            peer=str(transport.getPeer()),
        )
        transport.abortConnection()


class CorkedWriter(DirectWriter):
    """Writes at once, or at the end of a turn."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Cork, transport: Any, listener: WriteListener) -> None:
        super().__init__(transport, listener)
        self._turn = turn

    def write(self, data: bytes) -> None:
        """Write, unless it is gone."""
        if self._turn.depth:
            self._turn.hold(self, data)
        else:
            self.write_now(data)
