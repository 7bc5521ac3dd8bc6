"""What comes in from a peer: taken as long as somebody wants it, in turns with all the others."""

from __future__ import annotations

from typing import Any, Protocol, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.access.closing import INTERNAL_ERROR
from pushd.protocols.websocket.frames import BINARY, CLOSE, PING, PONG, TEXT, unmask
from pushd.protocols.websocket.judge import Judge
from pushd.protocols.websocket.outbound import OutboundFactory
from pushd.schedule.timeouts import TimeoutQueue

_log = Logger(namespace="pushd.protocols")

# How much of one connection is done in one turn of the reactor, before others have theirs: frames,
# and every 4 KiB of what they hold.
_TURN = 64

# Frames up to so many bytes are unmasked here.
SHORT = 4096

_SHORT_FRAMES = frozenset({TEXT, BINARY, CLOSE, PING, PONG})


class InboundFactory(OutboundFactory, Protocol):
    """What it takes of a factory to read."""

    # Frames up to so many bytes are taken here.
    _short: int
    _clock: IReactorTime
    # Who was pinged, and has not answered.
    pongs: TimeoutQueue[Any]


class Inbound(Judge):
    """A WebSocket that takes what comes.

    Most frames are whole and short and are taken here; Autobahn reads the others.
    """

    factory: InboundFactory

    # As long as nothing else is to be said of this connection.
    _reading_paused = True
    _consuming = False
    # The call that begins the next turn.
    _rest: IDelayedCall | None = None

    # What the WebSocket calls, as its Wire

    def pause_reading(self) -> None:
        """Deliver no more messages; TCP will hold the peer."""
        self._reading_paused = True
        self.transport.pauseProducing()
        # A pong could not be seen any more.
        self.factory.pongs.stop(self)

    def resume_reading(self) -> None:
        """Deliver what is here already, then read on."""
        self._reading_paused = False
        self.consumeData()
        if not self._reading_paused and self._rest is None:
            self.transport.resumeProducing()

    # What the transport calls

    def dataReceived(self, data: bytes) -> None:
        """Pass data to Autobahn; nothing that goes wrong in there may go on as if it had not."""
        if self._deaf or self.state is self.STATE_CLOSED:
            return
        self.data += data
        try:
            self.consumeData()
        except Exception:
            peer = str(self.transport.getPeer())
            _log.failure("failed to take data from {peer}", event="connection_failed", peer=peer)
            self.data = b""
            self.close(INTERNAL_ERROR)

    # What Autobahn calls

    def consumeData(self) -> None:
        """Process what has come, as long as somebody wants it."""
        # Perhaps a message's reader has made room: the loop below goes on by itself.
        if self._consuming or self._rest is not None:
            return
        self._consuming, self._work = True, 0
        try:
            while self._wants_more():
                self._take_short_frames()
                if not self.data and self.current_frame is None:
                    break
                if not self._wants_more() or not self.processData():
                    break
        finally:
            self._consuming = False
        if self._work >= _TURN and self.data and not self._reading_paused:
            self.transport.pauseProducing()
            self._rest = self.factory._clock.callLater(0, self._go_on)

    # Private

    def _take_short_frames(self) -> None:
        """Take the frames that are whole, short and simple, as most are, without Autobahn.

        Whatever is the least unusual is left to Autobahn; so is all that stands behind it.
        """
        if self.current_frame is not None or self.inside_message:
            return
        data, start, available = self.data, 0, len(self.data)
        while available - start >= 6 and self._wants_more():
            head, length, body = data[start], data[start + 1] - 0x80, start + 6
            if length == 126 and available - start >= 8:
                length, body = int.from_bytes(data[start + 2 : start + 4], "big"), start + 8
                fits = 126 <= length <= self.factory._short  # Not shorter (RFC 6455 §5.2).
            else:
                fits = 0 <= length <= self.factory._short and length < 126
            end = body + length
            if not fits or end > available or head not in _SHORT_FRAMES:
                break
            payload = unmask(data[body - 4 : body], data[body:end])
            try:
                message = payload.decode() if head == TEXT else payload
            except UnicodeDecodeError:
                break
            if head >= CLOSE and (length > 125 or (head == CLOSE and length == 1)):
                break
            start = end
            if not self._may_go_on(1 + (length >> 12)):
                break
            if head in (TEXT, BINARY):
                self.traffic.messages_in += 1
                self.traffic.bytes_in += length
                self._websocket.message_received(message)
            elif head == PONG:
                self.onPong(payload)
            elif head == PING:
                self.onPing(payload)
            else:
                self._take_close(payload)
        if start:
            self.data = data[start:]

    def _take_close(self, payload: bytes) -> None:
        """Take a Close frame: Autobahn answers it, or finds fault with it."""
        code = int.from_bytes(payload[:2], "big") if payload else None
        self.onCloseFrame(cast(int, code), cast(bytes, payload[2:] or None))

    def _wants_more(self) -> bool:
        """Whether to go on with what has come, in this turn of the reactor."""
        if self._reading_paused or self._deaf or self._work >= _TURN:
            return False
        return self.state is not self.STATE_CLOSED

    def _go_on(self) -> None:
        """Go on with what has come, now that others have had their turn."""
        self._rest = None
        self.resume_reading()
