"""Autobahn on one side, a WebSocket on the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.deadlines import Deadlines
from pushd.deflate import decompressor, negotiate
from pushd.frames import BINARY, CLOSE, PING, PONG, TEXT, message, unmask
from pushd.handshake import Handshake, opening
from pushd.lean import LeanProtocol
from pushd.limits import Limits, TokenBucket
from pushd.messages import (
    INTERNAL_ERROR,
    RATE_EXCEEDED,
    TINY_FRAGMENTS,
    TOO_BIG,
    TRY_AGAIN_LATER,
    Closing,
)
from pushd.outbox import unsent, writer
from pushd.traffic import Traffic
from pushd.visits import PEER, US, Ending
from pushd.websocket import WebSocket

# How long a peer has to answer a Close frame and to take what was sent before, in seconds.
CLOSE_TIMEOUT = 5.0

# How often a peer is pinged, and how long it may take to answer, in seconds. Proxies cut
# tunnels that are idle for a minute.
PING_INTERVAL = 25.0
PONG_TIMEOUT = 10.0

# Twisted asks its producer for a pause when so many bytes wait.
_PAUSED_FROM = FileDescriptor.bufferSize

# After so many fragments of one message they must have so many bytes on the average, or most of
# the work would be for frames' heads.
_FREE_FRAGMENTS = 256
_MEAN_FRAGMENT = 32

# How many seconds' worth of messages may come at once.
_BURST = 10

# How much of one connection is done in one turn of the reactor, before others have theirs: frames,
# and every 4 KiB of what they hold.
_TURN = 64


@implementer(IPushProducer)
class PushProtocol(LeanProtocol):
    """One WebSocket connection after its 101.

    It translates between Autobahn's callbacks and a WebSocket, and holds the peer to the limits.
    Names of our own start with an underscore, as Autobahn has taken some 285 others.
    """

    _log = Logger()

    factory: PushFactory
    # Comes with the factory, before the first data.
    _bucket: TokenBucket
    # Comes with the transport: puts frames on their way that are ready to go.
    push_frames: Callable[[bytes], object]
    # What the factory was given as options.
    maxMessagePayloadSize: Any
    maxFramePayloadSize: Any

    # As long as nothing else is to be said of this connection.
    window_bits = 0
    _reading_paused = True
    _consuming = False
    _deaf = False
    _writing_paused = False
    # What has been done in this turn of the reactor, and the call that begins the next.
    _work = 0
    _rest: IDelayedCall | None = None
    # A message that comes in pieces.
    _partial = bytearray()
    _fragments = 0
    _ping_payload = b""
    # Whether it was given up on, as no pong came.
    _silent = False

    def __init__(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> None:
        super().__init__()
        self._websocket = websocket
        self._lost = lost
        self.traffic = Traffic()

    # What the upgrade calls

    def _take_over(self, transport: Any, handshake: Handshake, subprotocol: str | None) -> None:
        """Make an HTTP connection this WebSocket's, and answer its handshake with 101.

        twisted.web has read the request and pushd has checked it, so Autobahn does not get to
        parse it a second time, with rules of its own about where a header ends.
        """
        # The HTTP channel is still its producer.
        transport.unregisterProducer()
        if isinstance(transport, ProtocolWrapper):  # TLS
            transport.wrappedProtocol = self
        else:
            transport.protocol = self
        self.makeConnection(transport)
        self.push_frames = writer(transport)
        transport.registerProducer(self, True)
        self._bucket = self.factory._make_bucket()
        self.push_frames(opening(handshake.key, subprotocol, self._agree(handshake.extensions)))
        self.factory._pings.start(self)

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
        self.traffic.messages_out += 1
        self.traffic.bytes_out += len(data)
        self.push_frames(data)

    def is_full(self) -> bool:
        """Whether more waits for the peer than may."""
        return unsent(self.transport) > self.factory._limits.max_buffered

    def close(self, closing: Closing) -> None:
        """Send a Close frame with any code that may go on the wire."""
        # sendClose() refuses every code but 1000 and 3000-4999.
        self.sendCloseFrame(closing.code, closing.reason.encode() or None)

    def pause_reading(self) -> None:
        """Deliver no more messages; TCP will hold the peer."""
        self._reading_paused = True
        self.transport.pauseProducing()
        # A pong could not be seen any more.
        self.factory._pongs.stop(self)

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
            self._log.failure(
                "failed to take data from {peer}", event="connection_failed", peer=peer
            )
            self.data = b""
            self.close(INTERNAL_ERROR)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell everybody that the connection is gone."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        for deadlines in self.factory._all_deadlines:
            deadlines.stop(self)
        super().connectionLost(reason)
        self._websocket.connection_lost()
        self._lost(self)

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
        # Many pieces and many bytes, inflated ones above all, cost more than a message does.
        elif self._may_go_on(1 + (self._fragments >> 5) + (len(payload) >> 16)):
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

    def onPong(self, payload: bytes) -> None:
        """Take the answer to the last ping for a sign of life: the peer reads what we send."""
        if payload == self._ping_payload:
            self.factory._pongs.stop(self)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write to the transport, without the log strings that Autobahn makes for each frame."""
        self.push_frames(data)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Send a Close frame, ours or the reply to the peer's, and watch what comes of it."""
        if self.state is not self.STATE_OPEN:
            return
        super().sendCloseFrame(code, reasonUtf8, isReply)
        self.factory._closings.start(self)
        self._websocket.conversation_ended()
        # The peer's Close frame may stand behind messages that nobody wants any more.
        if self._reading_paused and not isReply:
            self.resume_reading()

    # Private

    def _agree(self, extensions: str) -> str | None:
        """Agree on compression where it is offered; gives what the client is told of it."""
        if not extensions or not self.factory._limits.compression:
            return None
        accepted = negotiate(self._parseExtensionsHeader(extensions))
        if accepted is None:
            return None
        self._perMessageCompress = decompressor(accepted)
        self.window_bits = self._perMessageCompress.server_max_window_bits
        self._go_by_limits()
        told: str = accepted.get_extension_string()
        return told

    def _go_by_limits(self) -> None:
        """Note the limits that there are now, where the class does not have them for all."""
        limits = self.factory._limits
        self._bucket.change(rate=limits.max_rate, burst=_BURST * limits.max_rate)
        if self._perMessageCompress is not None:
            # What does not compress is larger compressed; onMessageEnd looks closer.
            size = limits.max_message + (limits.max_message >> 3)
            self.maxMessagePayloadSize = self.maxFramePayloadSize = size

    @property
    def _code(self) -> int:
        """The close code that tells how it ended (RFC 6455 §7.1.5; 1006 without any Close)."""
        code: int = self.localCloseCode if self.closedByMe else self.remoteCloseCode or 1005
        return code if self.wasClean or self.closedByMe else 1006

    @property
    def _ending(self) -> Ending:
        """How it ended, and why: who sent the first Close frame ended it, with or without words."""
        if self.closedByMe:
            return Ending(self._code, US, (self.localCloseReason or b"the view closed").decode())
        if self._silent:
            return Ending(self._code, US, f"no answer to a ping in {PONG_TIMEOUT:g} s")
        if not self.wasClean:
            return Ending(self._code, PEER, "the connection broke off")
        return Ending(self._code, PEER, ascii(self.remoteCloseReason or "the peer closed")[1:-1])

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

    def _wants_more(self) -> bool:
        """Whether to go on with what has come, in this turn of the reactor."""
        if self._reading_paused or self._deaf or self._work >= _TURN:
            return False
        return self.state is not self.STATE_CLOSED

    def _go_on(self) -> None:
        """Go on with what has come, now that others have had their turn."""
        self._rest = None
        self.resume_reading()

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
            self.transport.loseWriteConnection()

    def _ping(self) -> None:
        """Ask whether the peer is alive."""
        self.factory._pings.start(self)
        self._ping_payload = os.urandom(4)
        self.sendPing(self._ping_payload)
        # While reading is paused no pong can be seen; a peer that is gone fails the write.
        if not self._reading_paused:
            self.factory._pongs.start(self)

    def _drop_silent(self) -> None:
        """Give up on a peer that shows no sign of life."""
        self._silent = True
        self._drop_dead()

    def _drop_dead(self) -> None:
        """Give up on a peer that does not answer."""
        self.transport.abortConnection()


class PushFactory(WebSocketServerFactory):
    """Makes the protocols, and holds what they share.

    :param reactor: where time comes from.
    """

    def __init__(self, reactor: IReactorTime, limits: Limits) -> None:
        super().__init__(reactor=reactor, server=None)
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            failByDrop=False,
            # A page that closes with a code of its own sees it in its close event.
            echoCloseCodeReason=True,
            # Autobahn's timers are cut to whole seconds and run on a clock of their own.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )
        self._clock = reactor
        self._pings = Deadlines(reactor, length=PING_INTERVAL, expired=PushProtocol._ping)
        self._pongs = Deadlines(reactor, length=PONG_TIMEOUT, expired=PushProtocol._drop_silent)
        self._closings = Deadlines(reactor, length=CLOSE_TIMEOUT, expired=PushProtocol._drop_dead)
        # The options stand in a class, where Autobahn finds them as well as in each object.
        options = {name: getattr(self, name) for name in PushProtocol.CONFIG_ATTRS}
        del options["perMessageCompressionAccept"]  # A function would become a method.
        self._protocol: type[PushProtocol] = type("PushProtocol", (PushProtocol,), options)
        self._all_deadlines = (self._pings, self._pongs, self._closings)
        self.limit(limits)

    def limit(self, limits: Limits) -> None:
        """Go by these limits from now on, with those who are here as well.

        But whether a connection is compressed was agreed on when it was opened.
        """
        self._limits = limits
        self._short = min(_SHORT, limits.max_message)
        holder: Any
        for holder in (self, self._protocol):
            holder.maxMessagePayloadSize = holder.maxFramePayloadSize = limits.max_message
        for protocol in self._pings:
            protocol._go_by_limits()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Refuse: connections come from the upgrade of an HTTP request, with their WebSocket."""
        raise RuntimeError("a PushProtocol takes over an HTTP connection: see upgrade.py")

    def build(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> PushProtocol:
        """Make the protocol for a WebSocket; ``lost`` is called when its connection is gone."""
        protocol = self._protocol(websocket, lost)
        protocol.factory = self
        return protocol

    def _make_bucket(self) -> TokenBucket:
        rate = self._limits.max_rate
        return TokenBucket(rate=rate, burst=_BURST * rate, now=self._clock.seconds)


# What a Close frame holds beside its code (RFC 6455 §5.5).
_MAX_REASON = 123

_SHORT_FRAMES = frozenset({TEXT, BINARY, CLOSE, PING, PONG})

# Frames up to so many bytes are unmasked here.
_SHORT = 4096
