"""Subscriber that delivers a topic over a WebSocket: plain frames, or JSON with ids."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from pushd.access.closing import HISTORY_GAP, TRY_AGAIN_LATER, Closing
from pushd.access.counters import Traffic
from pushd.protocols.json_format import publication_json, subscription_json, to_json
from pushd.protocols.websocket.frames import message
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.topics.fanout import Batch, DirectWrite, Form, Send
from pushd.topics.hub import Hub
from pushd.topics.presence import Attendance
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

#: The subprotocol in which each frame is JSON and says its id.
V1 = "pushd.v1"


class FrameWriter(Protocol):
    """An open WebSocket connection, as its subscribers need it."""

    def push(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame, of any size."""

    def push_frames(self, frames: bytes) -> None:
        """Send frames that are complete."""

    def is_full(self, more: int = 0) -> bool:
        """Whether more than ``--max-buffered`` waits to be sent, or would with ``more`` bytes."""

    @property
    def taken(self) -> int:
        """How many bytes of messages the peer has taken, counted from any start."""

    @property
    def sender(self) -> Send | None:
        """The ``send`` of the socket, if the transport's buffer is empty; else None."""

    @property
    def window_bits(self) -> int:
        """How far back deflate may look, as a power of two; 0 if frames are not compressed."""

    @property
    def traffic(self) -> Traffic:
        """Counts what the connection sends; what writes past it must add to that."""


class Socket(Protocol):
    """A WebSocket, or what stands for one, as its subscribers need it."""

    @property
    def transport(self) -> str:
        """The name of its transport, for the metrics."""

    @property
    def wire(self) -> FrameWriter:
        """The connection, as long as the WebSocket is open."""

    @property
    def send_queue(self) -> SendQueue:
        """Resumes subscribers when the connection can take more."""

    def close_with(self, closing: Closing) -> Any:
        """Close the WebSocket."""


class WebSocketSubscriber:
    """Delivers one topic over one WebSocket: each publication is a frame with its data only."""

    __slots__ = (
        "__weakref__",
        "_attendance",
        "_form",
        "_hub",
        "_refused",
        "_socket",
        "_stopped",
        "_subscription",
        "_traffic",
        "_write",
        "recovered",
    )

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._subscription: Subscription | None = None
        self._hub: Hub | None = None
        self._stopped = False
        # That it takes part in the topic's presence.
        self._attendance: Attendance | None = None
        # Bytes of the batch that it did not take when it was last asked.
        self._refused = 0
        # Directly, as a WebSocket that closes stops its subscribers first.
        self._write = socket.wire.push_frames
        self._form = self.choose_form(socket.wire.window_bits)
        self._traffic = socket.wire.traffic
        #: Fires when it has started: True if nothing is missing since the id that was asked for.
        self.recovered: Deferred[bool] = Deferred()

    @property
    def transport(self) -> str:
        """The name of the transport, for the metrics."""
        return self._socket.transport

    @staticmethod
    def choose_form(window_bits: int) -> Form:
        """Return the format of publications."""
        return _in_plain_frames(window_bits)

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Subscribe to a topic, since an id or from now on."""
        self._hub = hub
        self._subscription = hub.subscribe(topic, self, after)
        if self._stopped:  # by the first publications, as they ended the WebSocket
            self.cancel()

    def attend(self, attendance: Attendance | None) -> None:
        """End an attendance when the subscription ends."""
        self._attendance = attendance
        if attendance is not None and self._stopped:
            attendance.leave()

    def cancel(self) -> None:
        """Send nothing more."""
        self._stopped = True
        if self._attendance is not None:
            self._attendance.leave()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()

    def stop(self) -> None:
        """Send nothing more, and tell what waits for the start."""
        self.cancel()
        if not self.recovered.called:
            self.recovered.callback(False)

    def catch_up(self) -> None:
        """Send what was published before this moment."""
        if self._subscription is not None and self._hub is not None:
            self._hub.catch_up(self._subscription)

    def resume(self) -> None:
        """Send on: the connection has room again."""
        if self._subscription is not None:
            self._subscription.resume()

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note that the subscription has started, unless it has been stopped."""
        if not self.recovered.called:
            self.recovered.callback(recovered)

    def deliver(self, batch: Batch) -> None:
        """Send publications."""
        frames, traffic = batch.render(self._form), self._traffic
        traffic.messages_out += batch.count
        traffic.bytes_out += len(frames)
        self._write(frames)

    def has_room(self) -> bool:
        """Whether the connection can take more; if not, ``resume`` is called when it can."""
        if self._stopped:
            return False
        queue = self._socket.send_queue
        if queue.paused:
            queue.add(self)
        return not queue.paused

    def keeps_up(self) -> bool:
        """Whether no more than ``--max-buffered`` waits; if not, ``resume`` is called later."""
        queue = self._socket.send_queue
        if not queue.paused or not self._socket.wire.is_full(self._refused):
            return True
        queue.add(self)
        return False

    def can_take(self, batch: Batch) -> bool:
        """Whether ``--max-buffered`` or less would wait; if not, ``resume`` is called later."""
        self._refused = len(batch.render(self._form)) if self._socket.send_queue.paused else 0
        if not self.keeps_up():
            return False
        self._refused = 0
        return True

    @property
    def taken(self) -> int:
        """How many bytes the client has taken, counted from any start."""
        return self._socket.wire.taken

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly to the socket if nothing is buffered before it."""
        if self._stopped:
            return None
        send = self._socket.wire.sender
        if send is None:
            return None
        return DirectWrite(self._form, send, self._write_rest, self._traffic)

    def leave_group(self) -> None:
        """Stop direct writes: data is about to be buffered, and what follows must go behind it."""
        if self._subscription is not None:
            self._subscription.leave_group()

    def _write_rest(self, frames: bytes, sent: int) -> None:
        """Send what the socket did not take of frames that its group has counted."""
        self._write(frames[sent:])

    def subscription_lost(self) -> None:
        """Close, so that the client reconnects with its last id."""
        self._socket.close_with(HISTORY_GAP if self.keeps_up() else TRY_AGAIN_LATER)


class JsonWebSocketSubscriber(WebSocketSubscriber):
    """Delivers one topic over one WebSocket with the subprotocol ``pushd.v1``."""

    __slots__ = ()

    @staticmethod
    def choose_form(window_bits: int) -> Form:
        """Return the format of publications: JSON with their ids."""
        return json_frames(window_bits)

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Send the id that the publications follow."""
        text = to_json(subscription_json(topic, id, recovered))
        self._socket.wire.push(text.encode(), binary=False)
        super().subscribed(topic, id, recovered)


class JsonValueWebSocketSubscriber(JsonWebSocketSubscriber):
    """Delivers what was published as JSON as a value, not as its text."""

    __slots__ = ()

    @staticmethod
    def choose_form(window_bits: int) -> Form:
        """Return the format of publications: JSON with their ids, and with values in JSON."""
        return json_frames(window_bits, format_json=True)


@cache
def _in_plain_frames(window_bits: int) -> Form:
    """Return the format in which a frame holds the data of a publication."""

    def form(publication: Publication) -> bytes:
        data = publication.data
        if isinstance(data, str):
            return message(data.encode(), binary=False, window_bits=window_bits)
        return message(data, binary=True, window_bits=window_bits)

    return form


@cache
def json_frames(window_bits: int, *, topic: bool = False, format_json: bool = False) -> Form:
    """Return the format in which a frame holds a publication as JSON; see ``publication_json``."""

    def form(publication: Publication) -> bytes:
        payload = publication_json(publication, topic=topic, format_json=format_json)
        return message(payload.encode(), binary=False, window_bits=window_bits)

    return form
