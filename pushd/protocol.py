"""Autobahn on one side, a WebSocket on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from pushd.deadlines import Deadlines
from pushd.handshake import Handshake
from pushd.messages import INTERNAL_ERROR, Closing
from pushd.websocket import WebSocket

# How long a peer has to answer a Close frame and to take what was sent before, in seconds.
CLOSE_TIMEOUT = 5.0

# How often a peer is pinged, and how long it may take to answer, in seconds. Proxies cut
# tunnels that are idle for a minute.
PING_INTERVAL = 25.0
PONG_TIMEOUT = 10.0


class _NoLog:
    """A stand-in for Autobahn's logger: pushd says itself what an operator should know."""

    def debug(self, *_: object, **__: object) -> None: ...

    info = warn = error = debug


@implementer(IPushProducer)
class PushProtocol(WebSocketServerProtocol):
    """One WebSocket connection after its 101.

    It translates between Autobahn's callbacks and a WebSocket and decides nothing. Names of our
    own start with an underscore, as Autobahn has taken some 285 others.
    """

    log = _NoLog()
    _log = Logger()

    # What Autobahn leaves untyped, or types too narrowly.
    transport: Any
    factory: PushFactory
    maxMessagePayloadSize: int

    def __init__(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> None:
        super().__init__()
        self._websocket = websocket
        self._lost = lost
        self._reading_paused = True

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
        transport.registerProducer(self, True)
        self.websocket_version = 13
        self.websocket_protocols = list(handshake.subprotocols)
        self.websocket_extensions = self._parseExtensionsHeader(handshake.extensions)
        self._wskey = handshake.key
        self.succeedHandshake((subprotocol, {}))
        self.factory._pings.start(self)

    # What the WebSocket calls, as its Wire

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame. Raises ValueError for one beyond the limit."""
        if len(payload) > self.maxMessagePayloadSize:
            # The limit holds for both ways in Autobahn, which raises in the reactor.
            raise ValueError(
                f"a message of {len(payload)} bytes: --max-message is {self.maxMessagePayloadSize}"
            )
        self.sendMessage(payload, isBinary=binary)

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
        if not self._reading_paused:
            self.transport.resumeProducing()

    # What the transport calls

    def connectionMade(self) -> None:
        """Prepare Autobahn's state; the transport's details are not asked for."""
        # Autobahn asks for the option before it has been copied, and hides the error.
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        self.peer = ""
        self._connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Pass data to Autobahn; nothing that goes wrong in there may go on as if it had not."""
        if self.state is self.STATE_CLOSED:
            return
        self.data += data
        try:
            self.consumeData()
        except Exception:
            self._log.failure("failed to take data from {peer}", peer=str(self.transport.getPeer()))
            self.close(INTERNAL_ERROR)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell everybody that the connection is gone."""
        for deadlines in self.factory._all_deadlines:
            deadlines.stop(self)
        self._connectionLost(cast(Any, reason))
        self._websocket.connection_lost()
        self._lost(self)

    def pauseProducing(self) -> None:
        """Note that the transport's buffer is full."""
        self._websocket.writing_paused()

    def resumeProducing(self) -> None:
        """Note that the transport's buffer is empty."""
        self._websocket.writing_resumed()

    def stopProducing(self) -> None:
        """Do nothing: connectionLost follows."""

    # What Autobahn calls

    def _onOpen(self) -> None:
        """Do nothing: the view runs already."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand a whole message to the WebSocket."""
        self._websocket.message_received(payload if isBinary else payload.decode())

    def onPong(self, payload: bytes) -> None:
        """Take any pong for a sign of life."""
        self.factory._pongs.stop(self)

    def consumeData(self) -> None:
        """Process what has come, as long as somebody wants it."""
        while not self._reading_paused and self.processData():
            if self.state is self.STATE_CLOSED:
                return

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write to the transport, without the log strings that Autobahn makes for each frame."""
        self.transport.write(data)

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

    def dropConnection(self, abort: bool = False) -> None:
        """Drop the connection; abort it only where the closing handshake did not work out.

        Autobahn aborts after a clean close as well, and the browser then calls it unclean.
        """
        super().dropConnection(abort=abort and not self.wasClean)

    # Private

    @property
    def _code(self) -> int:
        """The close code that tells how it ended (RFC 6455 §7.1.5; 1006 without any Close)."""
        ours, theirs = cast(Any, self.localCloseCode), cast(Any, self.remoteCloseCode)
        code: int = ours if self.closedByMe else theirs or 1005
        return code if self.wasClean or self.closedByMe else 1006

    def _ping(self) -> None:
        """Ask whether the peer is alive."""
        self.factory._pings.start(self)
        self.sendPing()
        # While reading is paused no pong can be seen; a peer that is gone fails the write.
        if not self._reading_paused:
            self.factory._pongs.start(self)

    def _drop_dead(self) -> None:
        """Give up on a peer that does not answer."""
        self.transport.abortConnection()


class PushFactory(WebSocketServerFactory):
    """Makes the protocols, and holds what they share.

    :param reactor: where time comes from.
    :param max_message: bytes that one message may have, its fragments together.
    """

    def __init__(self, reactor: IReactorTime, *, max_message: int = 1 << 20) -> None:
        super().__init__(reactor=reactor, server=None)
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxFramePayloadSize=max_message,
            maxMessagePayloadSize=max_message,
            failByDrop=False,
            # Autobahn's timers are cut to whole seconds and run on a clock of their own.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )
        self._pings = Deadlines(reactor, length=PING_INTERVAL, expired=PushProtocol._ping)
        self._pongs = Deadlines(reactor, length=PONG_TIMEOUT, expired=PushProtocol._drop_dead)
        self._closings = Deadlines(reactor, length=CLOSE_TIMEOUT, expired=PushProtocol._drop_dead)
        self._all_deadlines = (self._pings, self._pongs, self._closings)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Refuse: connections come from the upgrade of an HTTP request, with their WebSocket."""
        raise RuntimeError("a PushProtocol takes over an HTTP connection: see upgrade.py")

    def build(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> PushProtocol:
        """Make the protocol for a WebSocket; ``lost`` is called when its connection is gone."""
        protocol = PushProtocol(websocket, lost)
        protocol.factory = self
        return protocol
