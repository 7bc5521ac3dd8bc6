"""Autobahn's protocol for one connection, without what nobody here uses."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from pushd.protocols.websocket.frames import CLOSE, frame


class _NoLog:
    """A stand-in for Autobahn's logger: pushd says itself what an operator should know."""

    def debug(self, *_: object, **__: object) -> None: ...

    info = warn = error = debug


class LeanProtocol(WebSocketServerProtocol):
    """A WebSocket that is open from the start, and keeps its beginnings out of its memory.

    Autobahn copies some fifty options to each protocol, prints them for its log, and makes
    futures and statistics that take more room than all the rest. Here what is the same for all
    stands in the class, and an object has but what is its own. The opening handshake and what
    belongs to it are the upgrade's; reading frames and judging them is Autobahn's work.
    """

    log = _NoLog()

    # What Autobahn leaves untyped, or types too narrowly.
    transport: Any
    factory: Any
    state: Any = WebSocketServerProtocol.STATE_OPEN
    current_frame: Any = None
    localCloseCode: Any = None
    localCloseReason: Any = None
    remoteCloseCode: Any = None
    remoteCloseReason: Any = None
    _perMessageCompress: Any = None

    # What it expects to find, as long as nothing has happened.
    data = b""
    peer = ""
    inside_message = False
    websocket_version = 13
    send_state = WebSocketServerProtocol.SEND_STATE_GROUND
    closedByMe = failedByMe = droppedByMe = wasClean = False
    wasMaxFramePayloadSizeExceeded = wasMaxMessagePayloadSizeExceeded = False
    wasNotCleanReason: Any = None
    closeHandshakeTimeoutCall = autoPingTimeoutCall = autoPingPending = None
    trackedTimings: Any = None

    # It counts here what nobody asks for.
    trafficStats = TrafficStats()

    def __init__(self) -> None:
        # Autobahn's own makes futures that nobody waits for.
        pass

    @cached_property
    def utf8validator(self) -> Utf8Validator:  # type: ignore[override]  # Autobahn assigns it.
        """What checks text that comes in pieces; most never needs it."""
        return Utf8Validator()

    def connectionMade(self) -> None:
        """Prepare nothing: the class has it all."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Take note that the connection is gone."""
        self.state = self.STATE_CLOSED

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Send a Close frame with any code (RFC 6455 §5.5.1); the state is open before."""
        payload = b"" if code is None else code.to_bytes(2, "big") + (reasonUtf8 or b"")
        self.sendData(frame(CLOSE, payload))
        self.state = self.STATE_CLOSING
        self.closedByMe = not isReply
        self.localCloseCode, self.localCloseReason = code, reasonUtf8

    def dropConnection(self, abort: bool = False) -> None:
        """Close the connection once all is sent.

        Autobahn wants it aborted after a clean close as well: what waits to be sent would be
        lost, and the browser would call the close unclean.
        """
        self.transport.unregisterProducer()
        self.droppedByMe = True
        self.state = self.STATE_CLOSED
        self.factory._turn.lose(self.transport)
