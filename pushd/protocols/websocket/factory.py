"""What makes the protocols of WebSockets, and holds what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.interfaces import IAddress, IReactorTime

from pushd.access.limits import Limits, TokenBucket
from pushd.protocols.cork import Cork
from pushd.protocols.websocket.inbound import SHORT
from pushd.protocols.websocket.judge import BURST
from pushd.protocols.websocket.protocol import (
    CLOSE_TIMEOUT,
    PING_INTERVAL,
    PONG_TIMEOUT,
    PushProtocol,
)
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.timeouts import TimeoutQueue


class PushFactory(WebSocketServerFactory):
    """Makes the protocols, and holds what they share.

    :param reactor: where time comes from.
    :param turn: by which they write.
    """

    def __init__(self, reactor: IReactorTime, limits: Limits, turn: Cork) -> None:
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
        self._turn = turn
        self.pings = TimeoutQueue(reactor, timeout=PING_INTERVAL, expired=PushProtocol._ping)
        self.pongs = TimeoutQueue(reactor, timeout=PONG_TIMEOUT, expired=PushProtocol._drop_silent)
        self.closings = TimeoutQueue(
            reactor, timeout=CLOSE_TIMEOUT, expired=PushProtocol._drop_dead
        )
        # The options stand in a class, where Autobahn finds them as well as in each object.
        options = {name: getattr(self, name) for name in PushProtocol.CONFIG_ATTRS}
        del options["perMessageCompressionAccept"]  # A function would become a method.
        # The log names the class that it extends.
        options["__module__"] = PushProtocol.__module__
        self._protocol: type[PushProtocol] = type("PushProtocol", (PushProtocol,), options)
        self.timeouts: tuple[TimeoutQueue[Any], ...] = (
            self.pings,
            self.pongs,
            self.closings,
        )
        self._limits = limits
        self._apply_limits()
        limits.on_change(self._apply_limits)

    def _apply_limits(self) -> None:
        """Apply the limits to what keeps a copy, open connections included.

        But whether a connection is compressed was agreed on when it was opened.
        """
        most = self._limits.max_message
        self._short = min(SHORT, most)
        holder: Any
        for holder in (self, self._protocol):
            holder.maxMessagePayloadSize = holder.maxFramePayloadSize = most
        for protocol in self.pings:
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
        return TokenBucket(rate=rate, burst=BURST * rate, now=self._clock.seconds)
