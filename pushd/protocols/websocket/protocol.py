"""One WebSocket connection: a subclass of Autobahn's protocol, and the factory that makes it.

pushd has answered the opening handshake; Autobahn never sees it. It checks and assembles frames.
``PushProtocol`` adds:

* reading at the pace of the view, and no more than 64 frames in one reactor iteration
* limits on what the peer sends (size, rate, fragments) and on what waits to be sent to it
* closing with any code, failing the connection (RFC 6455 §7.1.7), and time-outs
* a ping every 25 seconds

Two **fast paths** rely on names that Autobahn does not document:

* Short frames are read by ``frames.read_frame``: 4.5 µs a frame instead of 23.
* What Autobahn sets in each new object is copied to the class once: an open connection has a dozen
  attributes of its own instead of sixty.

If such a name is missing, or fast paths are switched off, Autobahn sets up each object and reads
each frame (``pushd.protocols.fast_paths``). **Requirements** have no public way: opening a
connection without Autobahn's handshake, and compression, which is declined if a name is missing.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Hashable
from functools import cache, cached_property
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.access.admission import key_of
from pushd.access.closing import (
    INTERNAL_ERROR,
    INVALID_COMPRESSION,
    INVALID_TEXT,
    MEMORY_EXCEEDED,
    PEER,
    RATE_EXCEEDED,
    TINY_FRAGMENTS,
    TOO_BIG,
    TRY_AGAIN_LATER,
    US,
    Closing,
    Ending,
)
from pushd.access.counters import Traffic
from pushd.access.limits import Limits, TokenBucket
from pushd.access.memory import Memory, Usage
from pushd.access.progress import Progress
from pushd.protocols.cork import Cork, Writable
from pushd.protocols.fast_paths import FAST_PATHS, missing
from pushd.protocols.twisted_internals import (
    buffered,
    closes_halfway,
    receive_rest,
    unsent,
    untaken,
)
from pushd.protocols.websocket.deflate import decompressor, negotiate
from pushd.protocols.websocket.fragments import FragmentedMessage
from pushd.protocols.websocket.frames import (
    CLOSE,
    PING,
    PONG,
    FrameSplitter,
    frame,
    message,
    read_frame,
)
from pushd.protocols.websocket.handshake import Handshake, opening
from pushd.protocols.websocket.inbox import MAX_REST
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.timeouts import TimeoutQueue
from pushd.schedule.turns import Turn, Turns
from pushd.topics.fanout import Send
from pushd.topics.subscription import LAG_TIMEOUT

_log = Logger(namespace="pushd.protocols")

#: Seconds for a peer to answer a Close frame; again as long for one that still takes what was sent
#: before it; and again for it to close TCP after us.
CLOSE_TIMEOUT = 5.0

# How often in a row such a peer is seen to have taken nothing before it is aborted.
_IDLE_LOOKS = 3

#: Seconds after which a peer that has not taken all is aborted, even if it still takes something.
CLOSE_LIMIT = 60.0

#: Seconds from one ping to the next. Proxies cut tunnels that are idle for a minute.
PING_INTERVAL = 25.0

#: Seconds for a peer to answer a ping, or to show in another way that it lives.
PONG_TIMEOUT = 10.0

# Most work for one connection in one reactor iteration: frames, and each 4 KiB that Autobahn reads.
_MAX_WORK = 64

# The longest payload that the fast path reads, in bytes.
_MAX_SHORT_PAYLOAD = 4096

# Bytes that a peer on any link takes within ``CLOSE_TIMEOUT``.
_LITTLE = 4096

# A burst may have the messages that are allowed in this number of seconds.
_BURST = 10

# The most bytes that TLS adds to a Close frame, and that its own end takes.
_TLS_GOODBYE = 64

# Unsent bytes behind which a Close frame is still sent if the daemon's buffers are full.
_SENT_BEFORE_CLOSE = 4096

# Bytes in the transport's buffer from which Twisted asks a producer to pause.
_PAUSED_FROM = FileDescriptor.bufferSize

# Payloads of a Close frame as browsers send it: without a code, or with 1000 or 1001.
_PLAIN_CLOSES = frozenset({b"", b"\x03\xe8", b"\x03\xe9"})

# What the fast paths use of Autobahn's objects, and what has no public way.
_USED = ("_connectionMade", "consumeData", "data", "onCloseFrame")
_REQUIRED = ("_parseExtensionsHeader", "_perMessageCompress", "state")

# Registered with IANA since, and not known to Autobahn, which looks for the code of a peer's Close
# frame in this list of its own class.
_BAD_GATEWAY = 1014
WebSocketServerProtocol.CLOSE_STATUS_CODES_ALLOWED.append(_BAD_GATEWAY)

# What all connections may have in common: values that cannot change, options, counters that nothing
# reads, and a queue that ``sendData`` does not use.
_IMMUTABLE = bool | int | float | str | bytes | None
_SHARED = frozenset({*WebSocketServerProtocol.CONFIG_ATTRS, "send_queue", "trafficStats"})


class _NoLog:
    """Stands in for Autobahn's logger: pushd logs itself what an operator should know."""

    def debug(self, *_: object, **__: object) -> None: ...

    info = warn = error = debug


@implementer(IPushProducer)
class PushProtocol(WebSocketServerProtocol):
    """One WebSocket connection after its 101, between a transport and a ``WebSocket``.

    Private names of our own begin with an underscore, and no name is one of Autobahn's 285, except
    where it is overridden.

    :param lost: called with the protocol when the connection is gone.
    """

    log = _NoLog()

    # Autobahn leaves these untyped, or types them too narrowly.
    transport: Any
    factory: PushFactory
    localCloseCode: Any
    localCloseReason: Any
    remoteCloseCode: Any
    remoteCloseReason: Any
    _perMessageCompress: Any

    # What Autobahn sets at the end of its handshake.
    state: Any = WebSocketServerProtocol.STATE_OPEN
    websocket_version = 13
    current_frame: Any = None
    inside_message = False

    # Autobahn's options, where they are not its defaults.
    failByDrop = False
    # A page that closes with a code of its own sees it in its close event.
    echoCloseCodeReason = True
    # Autobahn's timers are truncated to whole seconds and run on a clock of their own.
    openHandshakeTimeout = closeHandshakeTimeout = 0

    # Our own state until something happens.
    #: How far back deflate may look, as a power of two; 0 means that frames are not compressed.
    window_bits = 0
    _bucket: TokenBucket
    _writer: Writable
    _writing_paused = False
    _reading_paused = True
    # What has arrived and has not been read.
    _buffer = b""
    # Splits it for Autobahn, from the first frame that Autobahn reads.
    _splitter: FrameSplitter | None = None
    _reading = False
    # What was read in this reactor iteration, and what continues in a later one.
    _work = 0
    _continuation: IDelayedCall | Turn | None = None
    #: Called when all has been read that arrived together; set by a WebSocket that gathers it.
    after_read: Callable[[], object] | None = None
    #: The client's address if a trusted proxy forwards it; set by what builds the protocol.
    forwarded_for: str | None = None
    # The message that arrives in fragments, or through Autobahn. Between messages it is an empty
    # one that all connections share, and that nothing changes: onMessageBegin replaces it.
    _message = FragmentedMessage()
    # Whether it is being closed because the daemon's buffers are full; it holds nothing any more.
    _freed = False
    # Whether input is read and dropped, as the connection has failed.
    _discards_input = False
    _ping_payload = b""
    # Payload of the peer's last ping while its pong waits for room.
    _waiting_pong: bytes | None = None
    # How much had arrived at the last ping.
    _received_at_ping = 0
    # What the peer takes meanwhile.
    _pong_progress: Progress | None = None
    # What the peer takes while a ping of ours waits behind data.
    _progress: Progress | None = None
    # Bytes that the peer had not taken when that was last looked at, from our Close on; after how
    # many more looks we stop waiting if it takes nothing, and when in any case; and whether we have
    # closed our side of TCP.
    _untaken = 0
    _idle_looks = 1
    # As much, when the connection was lost and its socket still open.
    _untaken_at_loss = 0
    # Bytes that do not count as untaken: those of our answer to the peer's Close.
    _goodbye = 0
    _close_deadline: float | None = None
    _half_closed = False
    # Why we aborted the connection.
    _abort_reason = ""

    def __init__(
        self,
        factory: PushFactory,
        websocket: WebSocket,
        lost: Callable[[PushProtocol], object],
    ) -> None:
        if not factory.fast:
            super().__init__()
        self.factory = factory
        self._websocket = websocket
        self._lost = lost
        #: Messages and bytes over this connection.
        self.traffic = Traffic()

    # The beginning and the end of a connection

    def take_over(self, channel: Any, handshake: Handshake, subprotocol: str | None) -> None:
        """Take over the connection of an HTTP channel, and answer its handshake with 101.

        twisted.web has read the request and pushd has checked it. Autobahn must not parse it a
        second time, as it has rules of its own for where a header ends.
        """
        transport = channel.detach()
        if isinstance(transport, ProtocolWrapper):  # TLS
            transport.wrappedProtocol = self
        else:
            transport.protocol = self
        factory = self.factory
        if factory.fast:
            # All that makeConnection does then.
            self.connected, self.transport = 1, transport
        else:
            self.makeConnection(transport)
        self._writer = factory.cork.writer(transport, self._websocket)
        transport.registerProducer(self, True)
        self._bucket = factory.make_bucket()
        extensions = self._negotiate(handshake.extensions)
        self._writer.write(opening(handshake.key, subprotocol, extensions, handshake.headers))
        factory.pings.start(self)
        factory.open.add(self)
        # Frames may have arrived right behind the handshake.
        channel.forward(self.dataReceived)

    def connectionMade(self) -> None:
        """Set the state to OPEN: the handshake has been answered."""
        super().connectionMade()
        self.state = self.STATE_OPEN

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stop all timers, and tell the WebSocket and the owner that the connection is gone."""
        self._read_rest()
        self.factory.open.discard(self)
        for queue in self.factory.timeouts:
            if self in queue.keys:
                queue.stop(self)
        if self._waiting_pong is not None:
            self.factory.full.stop(self)
        if not self.factory.fast:
            super().connectionLost(reason)
            self.is_closed = None  # This Deferred of Autobahn's refers to the protocol: a cycle.
        self.state = self.STATE_CLOSED
        if (self._untaken or self._writing_paused) and not self._abort_reason:
            waiting = max(unsent(self.transport), self._untaken_at_loss)
            goodbye = self._goodbye
            if goodbye and ISSLTransport.providedBy(self.transport):
                goodbye += _TLS_GOODBYE
            self._untaken = waiting if waiting > goodbye else 0
        self._websocket.connection_lost()
        self._lost(self)

    @property
    def ending(self) -> Ending:
        """How the connection ended: the side that closed or vanished first ended it.

        A Close of ours that stands behind bytes that the peer did not take has not arrived.
        """
        if self.closedByMe:
            code, reason = self.localCloseCode, self.localCloseReason or b"the view closed"
            if self._untaken:
                return Ending(1006, US, f"{reason.decode()} ({code})", self._untaken)
            if self._half_closed and not self.wasClean:
                reason += b", without an answer"
            return Ending(code, US, reason.decode())
        # RFC 6455 §7.1.5: 1005 for a Close frame without a code, 1006 without a Close frame.
        code = (self.remoteCloseCode or 1005) if self.wasClean else 1006
        if self.wasClean:
            reason = ascii(self.remoteCloseReason or "the peer closed")[1:-1]
            return Ending(code, PEER, reason, self._untaken)
        if self._abort_reason:
            return Ending(code, US, self._abort_reason, self._untaken)
        return Ending(code, PEER, "connection lost without a Close frame", self._untaken)

    def apply_limits(self) -> None:
        """Apply limits that have changed. Compression stays as negotiated."""
        rate = self.factory.limits.max_rate
        self._bucket.change(rate=rate, burst=_BURST * rate)

    def _negotiate(self, extensions: str) -> str | None:
        """Agree on compression if it is offered; return the extensions of the 101."""
        if not extensions or not self.factory.can_compress or not self.factory.limits.compression:
            return None
        accepted = negotiate(self._parseExtensionsHeader(extensions))
        if accepted is None:
            return None
        self._perMessageCompress = decompressor(accepted)
        self.window_bits = self._perMessageCompress.server_max_window_bits
        return str(accepted.get_extension_string())

    # Sending

    def send(self, payload: bytes, *, binary: bool, limited: bool = True) -> None:
        """Send one message as one frame, or close with 1013 if the peer is too slow.

        :param limited: whether to raise ValueError for a message longer than ``--max-message``.
        """
        limits = self.factory.limits
        if limited and len(payload) > limits.max_message:
            raise ValueError(
                f"message of {len(payload)} bytes: --max-message allows {limits.max_message}"
            )
        # As long as the transport has not asked for a pause, its buffer is nearly empty.
        paused = self._writing_paused
        may_be_full = paused or limits.max_buffered < _PAUSED_FROM
        if may_be_full and self.is_full():
            self.close(TRY_AGAIN_LATER)
            return
        data = message(payload, binary=binary, window_bits=self.window_bits)
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += len(data)
        if paused:
            self.factory.memory.add(len(data))
        self._writer.write(data)

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Send a publication, whose length was checked when it was published."""
        self.send(payload, binary=binary, limited=False)

    def push_frames(self, frames: bytes) -> None:
        """Send frames that are complete."""
        if self._writing_paused:
            self.factory.memory.add(len(frames))
        self._writer.write(frames)

    @property
    def taken(self) -> int:
        """How many bytes of messages the peer has taken, counted from any start."""
        return self.traffic.bytes_out - untaken(self.transport)

    @property
    def sender(self) -> Send | None:
        """The ``send`` of the socket, if the transport's buffer is empty; else None."""
        return None if self._writing_paused else self.factory.cork.sender(self.transport)

    def is_full(self, more: int = 0) -> bool:
        """Whether more than ``--max-buffered`` waits to be sent, or would with ``more`` bytes.

        While ``--max-memory`` is exceeded, anything that waits is too much.
        """
        # What the cork holds waits as well.
        self.factory.cork.flush()
        waiting = unsent(self.transport)
        if self.factory.memory.exceeded and waiting > _PAUSED_FROM:
            return True
        return waiting + more > self.factory.limits.max_buffered

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full."""
        if not self._writing_paused:
            self.factory.memory.add(buffered(self.transport))
        self._writing_paused = True
        self._websocket.send_queue.pause()

    def resumeProducing(self) -> None:
        """Note that the transport's buffer is empty."""
        self._writing_paused = False
        if self._waiting_pong is not None:
            self._send_waiting_pong(self._waiting_pong)
        self._websocket.send_queue.resume()

    def stopProducing(self) -> None:
        """Read what the kernel has received: the connection is lost, and its socket still open."""
        # The kernel may have given up with all that it had in its own buffer.
        if self._untaken or self._writing_paused:
            self._untaken_at_loss = untaken(self.transport)
        self._read_rest()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what Autobahn sends in the order of all the rest, and without log strings."""
        self._writer.write(data)

    # Reading

    def pause_reading(self) -> None:
        """Deliver no more messages; TCP will hold the peer."""
        self._reading_paused = True
        self.transport.pauseProducing()
        # A pong could not be seen any more.
        self.factory.pongs.stop(self)

    def resume_reading(self) -> None:
        """Deliver what has arrived already, then read on."""
        self._reading_paused = False
        if self._buffer:
            self._read()
        if not self._reading_paused and self._continuation is None:
            self.transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Read the frames in a piece of data; after an unexpected error, close with 1011."""
        if self.state is self.STATE_CLOSED:
            return
        self._buffer += data
        try:
            self._read()
        except Exception:
            self._reading_failed()
        # What consists of short frames alone is not unfinished.
        if self._buffer or self._splitter is not None:
            memory = self.factory.memory
            if self._buffer:
                memory.add(len(data))
            # During the handshake a view waits for this call.
            if not self._reading_paused:
                memory.enforce()

    def _reading_failed(self) -> None:
        peer = str(self.transport.getPeer())
        _log.failure(
            "failed to read from {peer}; closing with 1011",
            event="connection_failed",
            peer=peer,
        )
        self._buffer = b""
        self._fail(INTERNAL_ERROR)

    def _read(self) -> None:
        """Read what has arrived, up to the work of one reactor iteration or until it is paused.

        A long or compressed frame may wait for its turn, as it costs up to ten milliseconds, with
        what its view does: each connection could send one at the same moment.
        """
        # A view that makes room while a message is delivered to it comes here from the loop below.
        if self._reading or self._continuation is not None:
            return
        self._reading, self._work, turn = True, 0, None
        try:
            while self._buffer and self._may_read():
                if self._read_short_frames():
                    continue
                if not self.factory.turns.is_free:
                    turn = self.factory.turns.wait(self._turn_key, self._continue_reading)
                    break
                began = self.factory.clock.seconds()
                self._read_with_autobahn()
                self.factory.turns.charge(began)
        finally:
            self._reading = False
        if self._buffer:
            if self._discards_input:
                self._discard()
            elif turn is not None:
                self.transport.pauseProducing()
                self._continuation = turn
            elif self._work >= _MAX_WORK and not self._reading_paused:
                self.transport.pauseProducing()
                self._continuation = self.factory.clock.callLater(0, self._continue_reading)
        if self.after_read is not None:
            self.after_read()

    @property
    def _turn_key(self) -> Hashable:
        """Whose turn it is to have long or compressed messages read: the client's address."""
        return key_of(self.forwarded_for or getattr(self.transport.getPeer(), "host", "unix"))

    def _may_read(self) -> bool:
        """Whether to read on in this reactor iteration."""
        if self._reading_paused or self._discards_input or self._work >= _MAX_WORK:
            return False
        return self.state is not self.STATE_CLOSED

    def _discard(self) -> None:
        """Drop what has arrived; if the peer's Close is in it, TCP can be closed.

        What the peer sends must be read, or the kernel would reset the connection, and our Close
        frame would be lost.
        """
        data, self._buffer = self._buffer, b""
        if self._splitter is None:
            self._splitter = FrameSplitter()
        if self._splitter.skip_to_close(data):
            self.wasClean = True
            self._drop()

    def _read_rest(self) -> None:
        """Deliver what arrived before the connection was lost, and was not read at the view's pace.

        It is what was read from the kernel and, as long as the inbox takes it, what was not.
        """
        if self._continuation is not None:
            self._continuation.cancel()
            self._continuation = None
        if not self._websocket.takes_rest:
            self._buffer = b""
            return
        # What is received below must not be read at once.
        self._reading, received = True, 0
        try:
            self._read_buffer()
            while self._websocket.takes_rest and received < MAX_REST:
                piece = receive_rest(self.transport)
                if not piece:
                    break
                received += piece
                self._read_buffer()
        except Exception:
            self._reading_failed()
        self._buffer = b""

    def _read_buffer(self) -> None:
        """Read all that was received for a connection that is lost, unless the inbox is full."""
        while self._buffer and self._websocket.takes_rest:
            self._reading_paused, self._work = False, 0
            if not self._read_short_frames():
                self._read_with_autobahn()

    def _continue_reading(self) -> None:
        """Read on, now that other connections have had their turn."""
        self._continuation = None
        self.resume_reading()
        self.factory.memory.enforce()

    def message_kept(self, size: int) -> None:
        """Count a message that waits for the view."""
        self.factory.memory.add(size)

    def _read_short_frames(self) -> bool:
        """Read the short frames at the start of the buffer; return whether there was one."""
        if self._splitter is not None and not self._splitter.is_between_messages:
            return False
        buffer, traffic, read = self._buffer, self.traffic, 0
        limit = self.factory.max_short_payload
        while found := read_frame(buffer, read, limit):
            head, payload, length, read = found
            self._work += 1
            if not self._bucket.take():
                self._rate_exceeded()
                break
            if head < CLOSE:
                traffic.messages_in += 1
                traffic.bytes_in += length
                self._websocket.message_received(payload)
            else:
                self._control_received(head, payload)  # type: ignore[arg-type]  # It is no text.
            if read >= len(buffer) or not self._may_read():
                break
        # More may have arrived in the meantime, or all have been dropped.
        self._buffer = self._buffer[read:]
        return read > 0

    def _control_received(self, head: int, payload: bytes) -> None:
        if head == PING:
            self.onPing(payload)
        elif head == PONG:
            self.onPong(payload)
        elif payload in _PLAIN_CLOSES and self.state is self.STATE_OPEN:
            # As most conversations end. This is what Autobahn does for them.
            self.remoteCloseCode = code = int.from_bytes(payload, "big") or None
            self.remoteCloseReason, self.wasClean = None, True
            self.sendCloseFrame(code, None, isReply=True)
            self._drop()
        else:
            self._close_received(payload)

    def _close_received(self, payload: bytes) -> None:
        code: Any = int.from_bytes(payload[:2], "big") if payload else None
        reason: Any = payload[2:] or None
        self.onCloseFrame(code, reason)

    def _read_with_autobahn(self) -> None:
        """Let Autobahn read one frame, or what has arrived of it."""
        if self._splitter is None:
            self._splitter = FrameSplitter()
        piece, self._buffer, control = self._splitter.split(self._buffer)
        self.factory.memory.add(len(piece))
        if control and not self._charge(1):
            return
        if self.factory.fast:
            # This is what is left of dataReceived without statistics and log strings.
            self.data += piece
            self.consumeData()
        else:
            super().dataReceived(piece)

    # Limits on what the peer sends. After each of them Autobahn may have failed the connection.

    @property
    def maxMessagePayloadSize(self) -> int:
        """The longest message that Autobahn accepts, in bytes."""
        limit = self.factory.limits.max_message
        # What does not compress is longer when it is compressed; _decompress looks closer.
        return limit + (limit >> 3) if self.window_bits else limit

    maxFramePayloadSize = maxMessagePayloadSize

    def onMessageBegin(self, isBinary: bool) -> None:
        """Begin a message that Autobahn reads: one that is fragmented, compressed or long."""
        super().onMessageBegin(isBinary)
        compressed = self.current_frame.rsv != 0
        if compressed:
            # Its text is checked when it is decompressed, at its end.
            self.utf8validateIncomingCurrentMessage = False
        self._message = FragmentedMessage(compressed=compressed)

    def onMessageFrameBegin(self, length: int) -> None:
        """Check the size of a fragment, that of all together, and their number."""
        super().onMessageFrameBegin(length)
        self._work += 1
        if not self._message.add_fragment(self.message_data_total_length):
            self._fail(TINY_FRAGMENTS)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Take a piece of a fragment."""
        if not self.failedByMe:
            self._work += len(payload) >> 12
            self._message.append(payload)

    def onMessageFrameEnd(self) -> None:
        """Do nothing: the pieces are in place."""

    def onMessageEnd(self) -> None:
        """Check the size of a whole message and the peer's rate, and deliver it."""
        if self.failedByMe:
            return
        message, self._message = self._message, PushProtocol._message
        limits = self.factory.limits
        payload = self._decompress(message) if message.compressed else bytes(message.received)
        if payload is None:
            return
        if len(payload) > limits.max_message:
            self._fail(TOO_BIG)
        # A message of any size must fit into a burst.
        elif self._charge(message.cost(len(payload), limit=_BURST * limits.max_rate - 1)):
            self.onMessage(payload, self.message_is_binary)

    def _decompress(self, message: FragmentedMessage) -> bytes | None:
        """Return a compressed message decompressed; fail and return None if that is impossible."""
        limit, deflate = self.factory.limits.max_message, self._perMessageCompress
        kept = len(deflate.context)
        try:
            payload: bytes = deflate.inflate(message.received, limit)
        except zlib.error:
            self._fail(INVALID_COMPRESSION)
            return None
        self._work += len(payload) >> 12
        self.factory.memory.add(len(payload) + len(deflate.context) - kept)
        return payload

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Deliver a whole message to the WebSocket."""
        try:
            message = payload if isBinary else payload.decode()
        except UnicodeDecodeError:
            # It was compressed: other text is checked as it arrives.
            self._fail(INVALID_TEXT)
            return
        self.traffic.messages_in += 1
        self.traffic.bytes_in += len(payload)
        self._websocket.message_received(message)

    def onPing(self, payload: bytes) -> None:
        """Answer a ping; if the connection is full, when it can take more.

        Of several pings only the last is answered then (RFC 6455 §5.5.3). A peer that sends pings
        and takes nothing is closed with 1013.
        """
        if not self.is_full():
            self.sendPong(payload)
            return
        if self._waiting_pong is None and self.state is self.STATE_OPEN:
            self._pong_progress = Progress(self.taken, self.factory.clock.seconds())
            self.factory.full.start(self)
        self._waiting_pong = payload

    def _send_waiting_pong(self, payload: bytes) -> None:
        self._waiting_pong = self._pong_progress = None
        self.factory.full.stop(self)
        self.sendPong(payload)

    def full_expired(self) -> None:
        """Close with 1013 if the peer takes nothing while a pong waits for it."""
        payload, progress = self._waiting_pong, self._pong_progress
        assert payload is not None and progress is not None
        if not self.is_full():
            self._send_waiting_pong(payload)
        elif progress.look(self.taken, self.factory.clock.seconds()):
            self.factory.full.start(self)
        else:
            self.close(TRY_AGAIN_LATER)

    def _charge(self, count: int) -> bool:
        """Count a message or control frame: as work, and against the peer's rate.

        Returns False if the rate is exceeded; the connection has failed then.

        :param count: of messages that it counts for in the rate; as work it is always one.
        """
        self._work += 1
        if self._bucket.take(count):
            return True
        self._rate_exceeded()
        return False

    def _rate_exceeded(self) -> None:
        """Fail the connection, or drop what comes if we have closed."""
        if self.state is self.STATE_OPEN:
            self._fail(RATE_EXCEEDED)
        else:
            # We have closed. The peer may have sent some messages before it saw that, but no flood.
            self._discards_input = True

    # Closing

    def close(self, closing: Closing) -> None:
        """Send a Close frame with any code that may go on the wire."""
        # Autobahn's sendClose() refuses every code but 1000 and 3000-4999.
        self.sendCloseFrame(closing.code, closing.reason.encode() or None)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Send a Close frame, and give the peer five seconds to answer it.

        It is ours, Autobahn's reply to the peer's, or, with ``failedByMe``, the answer to a broken
        rule (RFC 6455 §7.1.7). In that case input is dropped from here on, up to the peer's Close.
        TCP stays open until then: a proxy that reads our FIN right behind our Close may end the
        client's connection before it has passed the Close on.
        """
        if self.state is not self.STATE_OPEN:
            return
        self._discards_input = self.failedByMe
        # Autobahn has a reason of its own for this code.
        reason = TOO_BIG.reason.encode() if code == TOO_BIG.code and self.failedByMe else reasonUtf8
        close = frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + (reason or b""))
        # To ask takes time, and a little is taken within one time-out. TCP is closed right
        # after a reply, unless something waits in the transport's buffer.
        little = isReply or (self.traffic.bytes_out < _LITTLE and not self.failedByMe)
        if (self._writing_paused or not little) and (waiting := untaken(self.transport)):
            self._untaken = waiting + len(close)
        if isReply:
            self._goodbye = len(close)
        self._writer.write(close)
        self.state = self.STATE_CLOSING
        self.closedByMe = not isReply
        self.localCloseCode, self.localCloseReason = code, reason
        if not isReply:  # After a reply the connection is closed: see _drop.
            self.factory.closings.start(self)
        # An empty Close frame has no code, which is 1005 (RFC 6455 §7.1.5); a reply echoes it.
        self._websocket.conversation_ended(code or 1005, (reason or b"").decode())
        # The peer's Close frame may stand behind messages that nothing waits for any more.
        if self._reading_paused and not isReply:
            self.resume_reading()

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> None:
        """Answer the peer's Close frame, or take it for the answer to ours."""
        super().onCloseFrame(code, reasonRaw)
        if self._discards_input:
            self._drop()  # It may be invalid, but the peer sends nothing behind it.

    def dropConnection(self, abort: bool = False) -> None:
        """Close the connection once all is sent: both Close frames are through.

        Autobahn wants it aborted if the peer's Close frame answers ours. What waits to be sent
        would be lost, and a browser would call the close unclean.
        """
        # Autobahn wants it dropped as well if the peer breaks a rule after our Close.
        if self.failedByMe:
            self._discards_input = True
        else:
            self._drop()

    def _drop(self) -> None:
        """Close TCP once all is sent."""
        if self.state is self.STATE_CLOSED:
            return
        self.transport.unregisterProducer()
        self.droppedByMe = True
        self.state = self.STATE_CLOSED
        self.factory.cork.lose(self.transport, self._closing_deferred)

    def _closing_deferred(self) -> None:
        """Give the peer five seconds to take what waits before the end of the connection."""
        if self not in self.factory.closings:
            self.factory.closings.start(self)

    def _fail(self, closing: Closing) -> None:
        """Fail the connection: the peer broke one of our rules."""
        self.failedByMe = True
        if self.state is self.STATE_OPEN:
            self.close(closing)
        else:
            self._discards_input = True

    def _half_close(self) -> None:
        """Close our side of TCP; closing the other is up to the peer. What it sends is read on."""
        self._half_closed = True
        transport: Any = self.transport
        if closes_halfway(transport):
            transport.loseWriteConnection()
        else:
            # Twisted's TLS reads on until the peer says goodbye, too.
            transport.unregisterProducer()
            transport.loseConnection()

    # Memory

    def count_memory(self, usage: Usage) -> int:
        """Add what the connection buffers to the usage; return its bytes."""
        if self._freed:
            return 0
        inbox, waiting = self._websocket.count_memory(usage), buffered(self.transport)
        unfinished = len(self._buffer) + len(self._message.received)
        context = len(self._perMessageCompress.context) if self.window_bits else 0
        usage.message += unfinished
        usage.send += waiting
        usage.compression += context
        return inbox + unfinished + waiting + context

    def free_memory(self) -> None:
        """Close with 1013, and drop all that is buffered: the daemon's buffers are full.

        If much is unsent, the Close frame would not arrive before it: the connection is reset.
        """
        self._freed = True
        self._message = PushProtocol._message
        if self.window_bits:
            self._perMessageCompress.context = b""
        self._websocket.free_memory()
        self._fail(MEMORY_EXCEEDED)
        if self.state is not self.STATE_CLOSED:
            self._discard()
        if unsent(self.transport) > _SENT_BEFORE_CLOSE:
            self._abort(MEMORY_EXCEEDED.reason)

    # The heartbeat and the time-outs

    def ping(self) -> None:
        """Send a ping, and start the time-out for its answer."""
        if self.state is not self.STATE_OPEN:
            return  # The time-out of our Close runs.
        self.factory.pings.start(self)
        if self in self.factory.pongs:
            return  # The last one still waits behind data, and the peer takes that.
        if self._progress is None and untaken(self.transport):
            self._progress = Progress(self.taken, self.factory.clock.seconds())
        self._ping_payload = os.urandom(4)
        self.sendPing(self._ping_payload)
        # While reading is paused no pong can be seen; if the peer is gone, writing fails.
        if not self._reading_paused:
            self._received_at_ping = self._received
            self.factory.pongs.start(self)

    def onPong(self, payload: bytes) -> None:
        """Stop the time-out if this answers the last ping: the peer reads what we send."""
        if payload == self._ping_payload:
            self.factory.pongs.stop(self)
            if self._progress is not None:
                self._progress = None

    def ping_expired(self) -> None:
        """Abort the connection, unless the peer has shown in another way that it lives.

        A message that has arrived, or a part of one, counts as an answer. A ping that stands behind
        data has not been sent: while the peer takes that, it is waited for.
        """
        if self.state is not self.STATE_OPEN or self._received != self._received_at_ping:
            self._progress = None
        elif self._takes_data():
            self.factory.pongs.start(self)
        else:
            self._abort(f"no answer to a ping in {PONG_TIMEOUT:g} s")

    @property
    def _received(self) -> int:
        """A number that changes when a part of a message arrives: cheaper than to count all."""
        traffic, splitter = self.traffic, self._splitter
        missing = 0 if splitter is None else splitter.missing
        rest = len(self._buffer) + len(self._message.received)
        return hash((traffic.messages_in, traffic.bytes_in, missing, rest))

    def _takes_data(self) -> bool:
        """Whether the peer has taken some of what waits for it since this was last asked."""
        progress = self._progress
        if not untaken(self.transport):
            # The ping has left since. Its time begins now.
            self._progress = None
            return progress is not None
        now = self.factory.clock.seconds()
        if progress is None:
            self._progress = Progress(self.taken, now)
            return True
        return progress.look(self.taken, now)

    def close_expired(self) -> None:
        """Wait on for a peer that still takes what was sent before our Close; else end TCP.

        One that has taken some has 15 s to take more: it reads in steps of up to half its kernel's
        buffer, as TCP announces room only then. If it has taken all and has not answered, our side
        is closed first.
        """
        now, waiting = self.factory.clock.seconds(), untaken(self.transport)
        if self._close_deadline is None:
            self._close_deadline = now - CLOSE_TIMEOUT + CLOSE_LIMIT
        took, self._untaken = waiting < self._untaken, waiting
        self._idle_looks = _IDLE_LOOKS if took else self._idle_looks - 1
        if (took or (waiting and self._idle_looks > 0)) and now < self._close_deadline:
            self.factory.closings.start(self)
        elif waiting or self._half_closed or self.state is self.STATE_CLOSED:
            self._abort("no answer to a Close frame")
        else:
            self.factory.closings.start(self)
            self._half_close()

    def _abort(self, reason: str) -> None:
        """Reset the connection."""
        self._abort_reason = reason
        # Behind our Close there may be the end of TLS.
        self._untaken = 0 if self._half_closed else untaken(self.transport)
        self.transport.abortConnection()

    @cached_property
    def utf8validator(self) -> Utf8Validator:  # type: ignore[override]  # Autobahn assigns it.
        """Checks text that arrives in pieces: most connections never need it."""
        return Utf8Validator()


class PushFactory(WebSocketServerFactory):
    """Makes the protocols of WebSocket connections, and holds what they share.

    :param reactor: where time comes from.
    :param limits: in force at any moment; what a reload changes in them applies at once.
    :param cork: through which all connections write.
    :param memory: bounds what all connections buffer.
    """

    def __init__(self, reactor: IReactorTime, limits: Limits, cork: Cork, memory: Memory) -> None:
        super().__init__(reactor=reactor, server=None)
        self.clock = reactor
        self.limits = limits
        self.cork = cork
        self.memory = memory
        #: Connections that are not lost.
        self.open: set[PushProtocol] = set()
        #: WebSockets whose connection is lost, and whose messages the view may still read.
        self.unread: set[WebSocket] = set()
        memory.watch(self.open)
        memory.watch(self.unread)
        #: Connections that will be pinged: all that are open.
        self.pings = TimeoutQueue(reactor, timeout=PING_INTERVAL, expired=PushProtocol.ping)
        #: Connections that have been pinged and have not answered.
        self.pongs = TimeoutQueue(reactor, timeout=PONG_TIMEOUT, expired=PushProtocol.ping_expired)
        #: Connections on which a Close frame was sent.
        self.closings = TimeoutQueue(
            reactor, timeout=CLOSE_TIMEOUT, expired=PushProtocol.close_expired
        )
        #: Whose turn it is to have long or compressed messages read, once that takes much time.
        self.turns = Turns(reactor)
        self.timeouts = (self.pings, self.pongs, self.closings)
        #: Connections on which a pong waits for room. They are few.
        self.full = TimeoutQueue(reactor, timeout=LAG_TIMEOUT, expired=PushProtocol.full_expired)
        used, required = _share_defaults()
        #: Whether the fast paths may be taken.
        self.fast = FAST_PATHS.allow("short WebSocket frames", used)
        #: The longest payload that they may read, in bytes; -1 for none.
        self.max_short_payload = -1
        #: Whether messages can be compressed.
        self.can_compress = not required
        FAST_PATHS.require("WebSocket compression", required)
        self._apply_limits()
        limits.on_change(self._apply_limits)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Refuse: connections come from the upgrade of an HTTP request, with their WebSocket."""
        raise RuntimeError("a PushProtocol takes over an HTTP connection: see take_over()")

    def build(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> PushProtocol:
        """Make the protocol for a WebSocket; ``lost`` is called when its connection is gone."""
        return PushProtocol(self, websocket, lost)

    def make_bucket(self) -> TokenBucket:
        """Make the token bucket that enforces a peer's rate."""
        rate = self.limits.max_rate
        return TokenBucket(rate=rate, burst=_BURST * rate, now=self.clock.seconds)

    def _apply_limits(self) -> None:
        if self.fast:
            self.max_short_payload = min(_MAX_SHORT_PAYLOAD, self.limits.max_message)
        for protocol in self.pings:
            protocol.apply_limits()


@cache
def _share_defaults() -> tuple[list[str], list[str]]:
    """Copy what Autobahn sets in each new object to the class ``PushProtocol``, for the fast paths.

    Returns what this version of Autobahn lacks: for the fast paths, and of what is required.
    """
    probe: Any = WebSocketServerProtocol()
    probe.factory = WebSocketServerFactory(reactor=object())
    probe.openHandshakeTimeout = 0  # It starts no timer.
    before = {*vars(probe)}
    if hasattr(probe, "_connectionMade"):
        probe._connectionMade()
    lacking = missing(probe, _USED)
    for name in {*vars(probe)} - before:
        value = getattr(probe, name)
        if hasattr(PushProtocol, name) or name == "perMessageCompressionAccept":
            continue  # The latter is a function, for the handshake, and would become a method.
        if name in _SHARED or isinstance(value, _IMMUTABLE):
            setattr(PushProtocol, name, value)
        else:
            lacking.append(f"a default for {name}")
    return lacking, missing(probe, _REQUIRED)
