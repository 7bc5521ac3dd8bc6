"""Autobahn on one side, a WebSocket on the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from pushd.access.closing import Ending
from pushd.access.connections import PEER, US
from pushd.access.counters import Traffic
from pushd.access.limits import TokenBucket
from pushd.protocols.websocket.deflate import decompressor, negotiate
from pushd.protocols.websocket.handshake import Handshake, opening
from pushd.protocols.websocket.inbound import Inbound, InboundFactory
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.timeouts import TimeoutQueue

# How long a peer has to answer a Close frame and to take what was sent before, in seconds.
CLOSE_TIMEOUT = 5.0

# How often a peer is pinged, and how long it may take to answer, in seconds. Proxies cut
# tunnels that are idle for a minute.
PING_INTERVAL = 25.0
PONG_TIMEOUT = 10.0


class ProtocolFactory(InboundFactory, Protocol):
    """What it takes of a factory to live and to end."""

    # Who is to be pinged, and who has not answered our Close.
    pings: TimeoutQueue[Any]
    closings: TimeoutQueue[Any]
    timeouts: tuple[TimeoutQueue[Any], ...]

    def _make_bucket(self) -> TokenBucket:
        """Make what a peer's rate is counted with."""


class PushProtocol(Inbound):
    """One WebSocket connection after its 101, from the take-over to the end.

    With what it extends, it translates between Autobahn's callbacks and a WebSocket, and holds the
    peer to the limits.
    """

    factory: ProtocolFactory

    _ping_payload = b""
    # Whether it was given up on, as no pong came.
    _silent = False

    def __init__(self, websocket: WebSocket, lost: Callable[[PushProtocol], object]) -> None:
        super().__init__()
        self._websocket = websocket
        self._lost = lost
        self.traffic = Traffic()

    # What the upgrade calls

    def take_over(self, channel: Any, handshake: Handshake, subprotocol: str | None) -> None:
        """Take over the connection of an HTTP channel, and answer its handshake with 101.

        twisted.web has read the request and pushd has checked it, so Autobahn does not get to
        parse it a second time, with rules of its own about where a header ends.
        """
        channel.write_now()
        transport, channel.transport = channel.transport, None
        # The HTTP channel is still its producer.
        transport.unregisterProducer()
        if isinstance(transport, ProtocolWrapper):  # TLS
            transport.wrappedProtocol = self
        else:
            transport.protocol = self
        self.makeConnection(transport)
        self._writer = self.factory._turn.writer(transport, self._websocket)
        transport.registerProducer(self, True)
        self._bucket = self.factory._make_bucket()
        self._writer.write(opening(handshake.key, subprotocol, self._agree(handshake.extensions)))
        self.factory.pings.start(self)
        # Frames that came right behind the handshake: those that the channel has put aside,
        # and those that it will when this is called from within its own parsing.
        if channel._dataBuffer:
            self.dataReceived(b"".join(channel._dataBuffer))
        channel.rawDataReceived = self.dataReceived

    # What the transport calls

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell everybody that the connection is gone."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        for deadlines in self.factory.timeouts:
            deadlines.stop(self)
        super().connectionLost(reason)
        self._websocket.connection_lost()
        self._lost(self)

    # What Autobahn calls

    def onPong(self, payload: bytes) -> None:
        """Take the answer to the last ping for a sign of life: the peer reads what we send."""
        if payload == self._ping_payload:
            self.factory.pongs.stop(self)

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Send a Close frame, ours or the reply to the peer's, and watch what comes of it."""
        if self.state is not self.STATE_OPEN:
            return
        super().sendCloseFrame(code, reasonUtf8, isReply)
        self.factory.closings.start(self)
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

    @property
    def _code(self) -> int:
        """The close code that tells how it ended (RFC 6455 §7.1.5; 1006 without any Close)."""
        code: int = self.localCloseCode if self.closedByMe else self.remoteCloseCode or 1005
        return code if self.wasClean or self.closedByMe else 1006

    @property
    def ending(self) -> Ending:
        """How it ended, and why: who sent the first Close frame ended it, with or without words."""
        if self.closedByMe:
            return Ending(self._code, US, (self.localCloseReason or b"the view closed").decode())
        if self._silent:
            return Ending(self._code, US, f"no answer to a ping in {PONG_TIMEOUT:g} s")
        if not self.wasClean:
            return Ending(self._code, PEER, "the connection broke off")
        return Ending(self._code, PEER, ascii(self.remoteCloseReason or "the peer closed")[1:-1])

    def _ping(self) -> None:
        """Ask whether the peer is alive."""
        self.factory.pings.start(self)
        self._ping_payload = os.urandom(4)
        self.sendPing(self._ping_payload)
        # While reading is paused no pong can be seen; a peer that is gone fails the write.
        if not self._reading_paused:
            self.factory.pongs.start(self)

    def _drop_silent(self) -> None:
        """Give up on a peer that shows no sign of life."""
        self._silent = True
        self._drop_dead()

    def _drop_dead(self) -> None:
        """Give up on a peer that does not answer."""
        self.transport.abortConnection()
