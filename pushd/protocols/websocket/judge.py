"""What a peer sends, held to the limits, and what becomes of a peer that breaks a rule."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import ProtocolWrapper

from pushd.access.closing import RATE_EXCEEDED, TINY_FRAGMENTS, TOO_BIG, TRY_AGAIN_LATER, Closing
from pushd.access.limits import TokenBucket
from pushd.protocols.websocket.outbound import Outbound

# After so many fragments of one message they must have so many bytes on the average, or most of
# the work would be for frames' heads.
_FREE_FRAGMENTS = 256
_MEAN_FRAGMENT = 32

# How many seconds' worth of messages may come at once.
BURST = 10

# What a Close frame holds beside its code (RFC 6455 §5.5).
_MAX_REASON = 123


class Judge(Outbound):
    """A WebSocket that hands on what its peer may say, and closes on one that may not say it."""

    # Comes with the factory, before the first data.
    _bucket: TokenBucket
    # What the factory was given as options.
    maxMessagePayloadSize: Any
    maxFramePayloadSize: Any

    # Whether what comes is of no interest any more.
    _deaf = False
    # What has been done in this turn of the reactor: frames, and every 4 KiB of what they hold.
    _work = 0
    # A message that comes in pieces.
    _partial = bytearray()
    _fragments = 0

    @property
    def _dearest(self) -> int:
        """What the bytes of one message may cost at most."""
        return BURST * self.factory._limits.max_rate - 1

    # What Autobahn calls

    def onMessageBegin(self, isBinary: bool) -> None:
        """Begin a message that comes in more than one piece, or compressed."""
        super().onMessageBegin(isBinary)
        self._partial = bytearray()
        self._fragments = 0

    def onMessageFrameBegin(self, length: int) -> None:
        """Check the size of a fragment, and that of all together."""
        super().onMessageFrameBegin(length)
        self._fragments += 1
        self._work += 1
        if (
            self._fragments > _FREE_FRAGMENTS
            and self.message_data_total_length < self._fragments * _MEAN_FRAGMENT
        ):
            self._fail(TINY_FRAGMENTS)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Put a piece to those before it: a list of many small ones would take far more room."""
        self._partial += payload
        self._work += len(payload) >> 12

    def onMessageFrameEnd(self) -> None:
        """Do nothing: the piece is where it belongs."""

    def onMessageEnd(self) -> None:
        """Hand a whole message on."""
        payload, self._partial = bytes(self._partial), bytearray()
        if self._perMessageCompress is not None:
            # Nothing is carried over to the next message, and this is 40 KiB.
            self._perMessageCompress._decompressor = None
        if len(payload) > self.factory._limits.max_message:
            self._fail(TOO_BIG)
        # Many pieces and many bytes, inflated ones above all, cost more than a message does; but
        # bytes no more than can be saved for.
        elif self._may_go_on(1 + (self._fragments >> 5) + min(len(payload) >> 16, self._dearest)):
            self.onMessage(payload, self.message_is_binary)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand a whole message to the WebSocket."""
        self.traffic.messages_in += 1
        self.traffic.bytes_in += len(payload)
        self._websocket.message_received(payload if isBinary else payload.decode())

    def processControlFrame(self) -> bool:
        """Count a control frame before it is heeded."""
        return self._may_go_on() and super().processControlFrame()

    def onPing(self, payload: bytes) -> None:
        """Answer a ping, unless the answers to the ones before are still here."""
        if self.is_full():
            self.close(TRY_AGAIN_LATER)
        else:
            self.sendPong(payload)

    # Private

    def _go_by_limits(self) -> None:
        """Note the limits that there are now, where the class does not have them for all."""
        limits = self.factory._limits
        self._bucket.change(rate=limits.max_rate, burst=BURST * limits.max_rate)
        if self._perMessageCompress is not None:
            # What does not compress is larger compressed; onMessageEnd looks closer.
            size = limits.max_message + (limits.max_message >> 3)
            self.maxMessagePayloadSize = self.maxFramePayloadSize = size

    def _may_go_on(self, count: int = 1) -> bool:
        """Count a message or control frame against the peer's rate."""
        self._work += 1
        if self._bucket.take(count):
            return True
        if self.state is self.STATE_OPEN:
            self._fail(RATE_EXCEEDED)
        else:  # We have closed. Some may have been under way, its Close above all; but no flood.
            self._deaf, self.data = True, b""
        return False

    def _fail(self, closing: Closing) -> None:
        """Close on a peer that broke a rule, and listen to it no more.

        What it still sends is read, or its own end would reset the connection and our Close with
        it, but nothing is done about it. TCP is closed our way; its own is the peer's to close.
        """
        if self.state is not self.STATE_OPEN:
            self.dropConnection()
            return
        self._deaf = self.failedByMe = True
        self.close(closing)
        self.data = b""
        if isinstance(self.transport, ProtocolWrapper):
            # TLS can't be closed by half; it says goodbye, and reads on until the peer does, too.
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            # Not before our Close has left, should the transport have something to write just now.
            self.factory._turn.flush()
            self.transport.loseWriteConnection()

    def _fail_connection(self, code: int = 1002, reason: str = "protocol error") -> None:
        """Fail the connection as Autobahn found fit (RFC 6455 §7.1.7)."""
        self._fail(Closing(code, reason.encode()[:_MAX_REASON].decode(errors="ignore")))

    def _protocol_violation(self, reason: str) -> bool:
        """Fail the connection with 1002, and tell Autobahn to go no further."""
        self._fail_connection(1002, reason)
        return True

    def _invalid_payload(self, reason: str) -> bool:
        """Fail the connection with 1007, and tell Autobahn to go no further."""
        self._fail_connection(1007, reason)
        return True
