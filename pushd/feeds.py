"""Publications on a WebSocket: as they are, or wrapped in JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from pushd.hub import Hub, Subscription
from pushd.messages import LOST_TRACK, Closing, Id, Publication

#: The subprotocol in which each frame is JSON and says its id.
V1 = "pushd.v1"


class Socket(Protocol):
    """What a feed needs of a WebSocket."""

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Send a publication; nothing happens when the conversation is over."""

    def has_room_for(self, feed: Feed) -> bool:
        """Whether the connection can take more just now; if not, ``Feed.resume`` is called."""

    def close_with(self, closing: Closing) -> Any:
        """Close the conversation."""


class Feed:
    """One topic on one WebSocket: each publication is a frame that holds its data, no more."""

    transport = "websocket"

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._subscription: Subscription | None = None
        self._stopped = False
        #: Fires with whether nothing is missing since the id that was asked for.
        self.begun: Deferred[bool] = Deferred()

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Begin."""
        self._subscription = hub.subscribe(topic, self, after)
        if self._stopped:  # by what it was sent at once
            self._subscription.cancel()

    def stop(self) -> None:
        """End. Who still waits for it to begin waits no longer."""
        self._stopped = True
        if self._subscription is not None:
            self._subscription.cancel()
        if not self.begun.called:
            self.begun.callback(False)

    def resume(self) -> None:
        """Go on: the connection has room again."""
        if self._subscription is not None:
            self._subscription.resume()

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Take note that it has begun."""
        self.begun.callback(recovered)

    def deliver(self, publication: Publication) -> None:
        """Send a publication."""
        data = publication.data
        if isinstance(data, str):
            self._socket.push(data.encode(), binary=False)
        else:
            self._socket.push(data, binary=True)

    def has_room(self) -> bool:
        """Whether the connection can take more just now."""
        return not self._stopped and self._socket.has_room_for(self)

    def lost_track(self) -> None:
        """Close, so that the client begins anew and is told what it missed."""
        self._socket.close_with(LOST_TRACK)


class JsonFeed(Feed):
    """One topic on one WebSocket that speaks ``pushd.v1``."""

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Tell where the publications begin."""
        self._tell(subscription_json(topic, id, recovered))
        super().subscribed(topic, id, recovered)

    def deliver(self, publication: Publication) -> None:
        """Send a publication with its id."""
        self._tell(publication_json(publication))

    def _tell(self, value: dict[str, Any]) -> None:
        self._socket.push(to_json(value).encode(), binary=False)


def subscription_json(topic: str, id: Id, recovered: bool) -> dict[str, Any]:
    """What a subscriber is told first: the publications that come follow this id."""
    return {"subscribed": topic, "id": str(id), "recovered": recovered}


def publication_json(publication: Publication) -> dict[str, Any]:
    """A publication as JSON has it: text as ``data``, bytes as ``base64``."""
    if isinstance(publication.data, str):
        return {"id": str(publication.id), "data": publication.data}
    return {"id": str(publication.id), "base64": b64encode(publication.data).decode()}


def to_json(value: object) -> str:
    """JSON without blanks, in the characters that it is about."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
