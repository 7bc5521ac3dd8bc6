"""What goes out to a peer, and no more of it than the peer takes."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from pushd.access.closing import TRY_AGAIN_LATER, Closing
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.protocols.cork import Cork, Writes
from pushd.protocols.transport import unsent
from pushd.protocols.websocket.frames import message
from pushd.protocols.websocket.lean import LeanProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.fanout import Send

# Twisted asks its producer for a pause when so many bytes wait.
_PAUSED_FROM = FileDescriptor.bufferSize


class OutboundFactory(Protocol):
    """What it takes of a factory to send."""

    # A reload changes them.
    _limits: Limits
    # By which all write.
    _turn: Cork


@implementer(IPushProducer)
class Outbound(LeanProtocol):
    """A WebSocket that sends what it is given, and lets go of a peer that does not follow.

    Names of our own start with an underscore, here and in what extends it, as Autobahn has taken
    some 285 others; but for those that a WebSocket calls.
    """

    factory: OutboundFactory
    traffic: Traffic
    # Comes with the transport.
    _writer: Writes
    _websocket: WebSocket

    # As long as nothing else is to be said of this connection.
    window_bits = 0
    _writing_paused = False

    # What the WebSocket calls, as its Wire

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame. Raises ValueError for one beyond the limit."""
        limit = self.factory._limits.max_message
        if len(payload) > limit:
            raise ValueError(f"a message of {len(payload)} bytes: --max-message is {limit}")
        self.push(payload, binary=binary)

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame, unless the peer is too slow to follow."""
        # As long as the transport has not asked for a pause there is not much in it.
        may_be_full = self._writing_paused or self.factory._limits.max_buffered < _PAUSED_FROM
        if may_be_full and self.is_full():
            self.close(TRY_AGAIN_LATER)
            return
        data = message(payload, binary=binary, window_bits=self.window_bits)
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += len(data)
        self._writer.write(data)

    def push_frames(self, frames: bytes) -> None:
        """Put frames on their way that are ready to go."""
        self._writer.write(frames)

    @property
    def sender(self) -> Send | None:
        """The ``send`` of a socket before which nothing waits; else None."""
        return None if self._writing_paused else self.factory._turn.sender(self.transport)

    def is_full(self) -> bool:
        """Whether more waits for the peer than may."""
        # What is held waits as well.
        self.factory._turn.flush()
        return unsent(self.transport) > self.factory._limits.max_buffered

    def close(self, closing: Closing) -> None:
        """Send a Close frame with any code that may go on the wire."""
        # sendClose() refuses every code but 1000 and 3000-4999.
        self.sendCloseFrame(closing.code, closing.reason.encode() or None)

    # What the transport calls

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full."""
        self._writing_paused = True
        self._websocket.writing_paused()

    def resumeProducing(self) -> None:
        """Note that the transport's buffer is empty."""
        self._writing_paused = False
        self._websocket.writing_resumed()

    def stopProducing(self) -> None:
        """Do nothing: connectionLost follows."""

    # What Autobahn calls

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write to the transport, without the log strings that Autobahn makes for each frame."""
        self._writer.write(data)
