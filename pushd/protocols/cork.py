"""Holding back small writes to many connections, to hand them to the kernel together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from twisted.logger import Logger

from pushd.protocols.twisted_internals import (
    LAST,
    DirectWriter,
    WriteListener,
    lose,
    sender,
    takes_direct_writes,
)

_log = Logger(namespace="pushd.protocols")

# The most writes that are held, so that none is late, and the longest in bytes: a longer one takes
# time by itself.
_MAX_HELD = 32
_MAX_LENGTH = 4096

# Up to which length in bytes a write is joined with one that is held: to copy it is cheaper then
# than a system call.
_MAX_JOINED = 1 << 14


class Writable(Protocol):
    """Anything that can be written to."""

    def write(self, data: bytes) -> object:
        """Write."""


class Cork:
    """Holds small writes within ``with``, and lets them out together at its end.

    Waking a reading process costs several times as much as the rest of a short ``send``. If sockets
    are written to one right after the other, the processes that read them stay awake, and only the
    first one costs that: a handshake and close takes 0.74 of the CPU. Only direct writes are held.

    What one connection writes in a row, such as an answer and what follows it, is one write.

    The order of one connection's data is kept. Connections that are to be closed are closed last,
    one by one, as that may cause more writes and more closing. A write never closes anything, so
    code that writes is not interrupted by what a lost connection sets off.
    """

    __slots__ = ("_closing", "depth", "held")

    def __init__(self) -> None:
        #: The number of ``with`` blocks around what runs; writes are held within any.
        self.depth = 0
        #: Writers, their data, and flags for the system call.
        self.held: deque[tuple[DirectWriter, bytes, int]] = deque()
        # Transports that are to be closed, and what to call if they can't be at once.
        self._closing: deque[tuple[Any, Callable[[], object]]] = deque()

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # What closing a connection sets off is held as well, and let out here.
            while self.depth == 1 and (self.held or self._closing):
                self.flush()
                if self._closing:
                    self._close(*self._closing.popleft())
        finally:
            self.depth -= 1

    def writer(self, transport: Any, listener: WriteListener) -> Writable:
        """Return the fastest writer for a transport: itself, if direct writes are not possible."""
        if takes_direct_writes(transport):
            return CorkedWriter(self, transport, listener)
        written: Writable = transport
        return written

    def sender(self, transport: Any) -> Callable[[bytes], int] | None:
        """Let out what is held, and return the ``send`` of a transport's socket.

        See ``transport.sender``. It may be called only right after this, or after ``flush``.
        """
        self.flush()
        return sender(transport)

    def lose(self, transport: Any, deferred: Callable[[], object] = lambda: None) -> None:
        """Close a connection after all is sent; ``connectionLost`` may be called before it returns.

        If its last data is held, the end of the connection goes in the same segment.

        :param deferred: called if something waits in the transport's buffer, and so it stays open.
        """
        if not (self.depth and takes_direct_writes(transport)):
            if not lose(transport):
                deferred()
            return
        if self.held and self.held[-1][0].transport is transport:
            writer, data, _ = self.held.pop()
            self.held.append((writer, data, LAST))
        self._closing.append((transport, deferred))

    def flush(self) -> None:
        """Let out what is held, before something is written in another way."""
        held = self.held
        while held:
            writer, data, flags = held.popleft()
            try:
                writer.write_now(data, flags)
            except Exception:  # The other connections must not suffer.
                self._drop(writer.transport)

    def _close(self, transport: Any, deferred: Callable[[], object]) -> None:
        try:
            if not lose(transport):
                deferred()
        except Exception:  # The other connections must not suffer.
            self._drop(transport)

    def _drop(self, transport: Any) -> None:
        """Log the current exception, and drop the connection that raised it."""
        _log.failure(
            "failed to serve {peer}",
            event="connection_failed",
            peer=str(transport.getPeer()),
        )
        transport.abortConnection()


class CorkedWriter(DirectWriter):
    """Writes at once, or has a cork hold the data."""

    __slots__ = ("_cork",)

    def __init__(self, cork: Cork, transport: Any, listener: WriteListener) -> None:
        super().__init__(transport, listener)
        self._cork = cork

    def write(self, data: bytes) -> None:
        """Write, unless the connection is lost."""
        cork = self._cork
        if not cork.depth:
            self.write_now(data)
            return
        held = cork.held
        if held and len(data) <= _MAX_JOINED:
            writer, before, flags = held[-1]
            if writer is self and not flags:
                held.pop()
                data = before + data
        held.append((self, data, 0))
        if len(held) >= _MAX_HELD or len(data) > _MAX_LENGTH:
            cork.flush()
