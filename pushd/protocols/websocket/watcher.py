"""Watcher that tells the client of a WebSocket who joins and leaves a topic."""

from __future__ import annotations

from collections.abc import Sequence

from pushd.protocols.json_format import presence_event_json, to_json
from pushd.protocols.websocket.frames import message
from pushd.protocols.websocket.socket import WebSocket
from pushd.topics.presence import Notice, Presence, PresenceChange, PresenceList, Watch


class WebSocketWatcher:
    """Tells who is present over one WebSocket that speaks ``pushd.v1``.

    While the connection is full it tells nothing, and the whole list once there is room.
    """

    __slots__ = ("_watch", "_websocket")

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._watch: Watch | None = None

    def start(self, presence: Presence, topic: str) -> None:
        """Tell who is present at a topic from now on."""
        self._watch = presence.watch(topic, self)

    def stop(self) -> None:
        """Tell nothing more."""
        self._websocket.send_queue.discard(self)
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    def notify(self, notice: Notice) -> bool:
        """Send a notice if there is room."""
        websocket = self._websocket
        if websocket.is_closed():
            return True
        if websocket.send_queue.paused:
            websocket.send_queue.add(self)
            return False
        frames, wire = notice.render(_in_frames), websocket.wire
        wire.traffic.messages_out += len(notice.events)
        wire.traffic.bytes_out += len(frames)
        wire.push_frames(frames)
        return True

    def resume(self) -> None:
        """Send the whole list, as the connection has room again."""
        if self._watch is not None:
            self._watch.resume()


def _in_frames(events: Sequence[PresenceList | PresenceChange]) -> bytes:
    """Return events as frames: not compressed, so that all connections take the same."""
    return b"".join(
        message(to_json(presence_event_json(event)).encode(), binary=False) for event in events
    )
