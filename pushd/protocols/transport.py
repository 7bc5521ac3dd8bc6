"""What is on its way to a peer, and how the last of it leaves."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure


def unsent(transport: Any) -> int:
    """How many bytes have been written to a transport that the kernel has not taken.

    Twisted tells a producer only that it is too many; the number is in attributes of its own
    transports, which are read here and nowhere else. A transport without them counts as empty.
    """
    if isinstance(transport, ProtocolWrapper):  # TLS, whose own buffer waits for the peer
        waiting: list[bytes] = getattr(transport, "_appSendBuffer", [])
        return unsent(transport.transport) + sum(map(len, waiting))
    try:
        size: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    except AttributeError:
        size = getattr(transport, "unsent", 0)
    return size


def is_plain(transport: Any) -> bool:
    """Whether a transport is Twisted's own and hands what it gets to the socket as it is."""
    return issubclass(type(transport), Connection) and not transport.TLS


class Speaker(Protocol):
    """Whose words go out over a transport."""

    def writing_deferred(self) -> None:
        """Something waits before the socket from now on."""


# Of what the end follows at once: with that, it leaves in one segment (Linux has this).
LAST = int(getattr(socket, "MSG_MORE", 0))


class Writer:
    """Hands data to the kernel at once; what it does not take is the transport's to write.

    A transport's own ``write`` waits for the reactor to find the socket writable, which costs
    three system calls where this has one. It is for a transport that is plain.

    :param speaker: told when something has to wait.
    """

    __slots__ = ("_free", "_speaker", "transport")

    def __init__(self, transport: Any, speaker: Speaker) -> None:
        self.transport = transport
        self._speaker = speaker
        # The socket, as long as nothing waits before it. (To ask the transport each time means to
        # fetch five more things from memory, for each of thousands.)
        self._free: Any = None

    def write_now(self, data: bytes, flags: int = 0) -> None:
        """Write now; to one who is gone as well, which comes to nothing.

        :param flags: for the kernel.
        """
        free = self._free or self._look()
        if free is None:
            self.transport.write(data)
            return
        try:
            sent = free.send(data, flags)
        except OSError:
            # There is no room, or no connection: the transport finds out, and knows what to do.
            sent = 0
        if sent < len(data):
            self._free = None
            self._speaker.writing_deferred()
            self.transport.write(data[sent:])

    def _look(self) -> Any:
        """Look whether anything waits, which has to go first."""
        transport = self.transport
        if transport.connected and not unsent(transport):
            self._free = transport.socket
        return self._free


def sender(transport: Any) -> Callable[[bytes], int] | None:
    """The ``send`` of a transport's socket, where what it takes follows all that was written.

    None where something waits before the socket, and where there is none that takes it as it is. It
    is good until the connection ends, or until something waits, of which ``Writer`` tells: so
    nobody may write to the transport past that.
    """
    if not is_plain(transport) or unsent(transport):
        return None
    send: Callable[[bytes], int] = transport.socket.send
    return send


#: Why a connection ends that is closed in order.
DONE = Failure(ConnectionDone())


def lose(transport: Any) -> None:
    """Close a connection once all is sent, at once where nothing waits.

    Twisted's own ``loseConnection`` waits for the reactor to find the socket writable, to send
    nothing. As with that, ``connectionLost`` is called, here before this returns.
    """
    if is_plain(transport) and transport.connected and not unsent(transport):
        transport.connectionLost(DONE)
    else:
        transport.loseConnection()
