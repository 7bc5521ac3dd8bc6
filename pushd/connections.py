"""The open WebSockets: counted, and closed at the end."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed

from pushd.messages import Closing
from pushd.websocket import WebSocket


class Connections:
    """Every WebSocket of this daemon from its 101 to the end of its connection."""

    def __init__(self) -> None:
        self._open: set[WebSocket] = set()
        #: How everybody is being asked to leave, once the daemon stops.
        self.closing: Closing | None = None
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, websocket: WebSocket) -> None:
        """Count a WebSocket in."""
        self._open.add(websocket)

    def lost(self, websocket: WebSocket) -> None:
        """Count a WebSocket out: its connection is gone."""
        self._open.discard(websocket)
        while self._emptied and not self._open:
            self._emptied.pop().callback(None)

    def close_all(self, closing: Closing) -> Deferred[None]:
        """Close every WebSocket; the Deferred fires when the last connection is gone."""
        self.closing = closing
        for websocket in list(self._open):
            websocket.close_with(closing)
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied
