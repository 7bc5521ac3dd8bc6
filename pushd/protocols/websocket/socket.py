"""WebSocket: what a view reads from, sends to and closes.

Its states, and what moves it from one to the next::

                              close(), or the
                accept()      peer's Close            connection lost
      OFFERED ─────────▶ OPEN ─────────────▶ CLOSING ────────────────▶ CLOSED
         │                 │                                             ▲
         │ HTTP response,  │ connection lost                             │
         │ or client left  │                                             │
         └─────────────────┴─────────────────────────────────────────────┘

* OFFERED: the handshake has not been answered. The first call that needs the connection accepts it:
  any but ``is_closed``.
* OPEN: messages go both ways.
* CLOSING: a Close frame has been sent or received. Nothing is sent any more, and what arrives is
  dropped; the messages in the inbox can still be read. Then ``wait`` gives None.
* CLOSED: as CLOSING, and what awaits ``close`` goes on.

Messages that wait to be read are in an ``Inbox``; tasks and subscribers that wait for room to send
are in a ``SendQueue``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from pushd.access.closing import NORMAL, Closing
from pushd.protocols.websocket.inbox import Inbox, Source
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.protocols.websocket.subscriber import (
    V1,
    FrameWriter,
    JsonWebSocketSubscriber,
    WebSocketSubscriber,
)
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, check_topic

# A view that reads or subscribes this number of times after the end does not look at the result,
# and is ended.
_CALLS_AFTER_END = 100

# The subscriptions of a WebSocket that has none: replaced, never changed.
_NO_SUBSCRIBERS: dict[str, WebSocketSubscriber] = {}


class Wire(FrameWriter, Source, Protocol):
    """An open WebSocket connection."""

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame. Raises ValueError if it is longer than allowed."""

    def close(self, closing: Closing) -> None:
        """Send a Close frame, and end the connection in time."""


class Offer(Protocol):
    """An opening handshake that has not been answered."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that the client offers, in its order of preference."""

    def accept(self, websocket: WebSocket, subprotocol: str | None) -> Wire:
        """Answer 101; the wire delivers to the WebSocket once its reading is resumed."""


class Owner(Protocol):
    """The run of the view that a WebSocket was made for: other tasks may use it as well."""

    @property
    def running(self) -> bool | None:
        """Whether the view is what runs at this moment; None if that cannot be known."""

    def end(self) -> None:
        """End the view, unless what it awaits will notify it."""

    def view_notified(self) -> None:
        """Note that the view has been notified of the end."""


class _State(Enum):
    """See the module's docstring."""

    OFFERED = "the handshake has not been answered"
    OPEN = "messages go both ways"
    CLOSING = "one side has closed"
    CLOSED = "the connection is gone"


# Names of their own, as looking up a member of an enum takes as long as a function call.
_OFFERED, _OPEN, _CLOSING, _CLOSED = _State


class WebSocket:
    """A WebSocket in the hands of a view, as ``request.websocket``.

    The 101 that opens the connection goes out when the view first needs it open: at the first
    call of any method but ``is_closed``. A view that returns an HTTP response before that refuses
    the handshake with it.

    :param offer: the handshake to answer.
    :param clock: for time-outs.
    :param hub: where topics can be subscribed to.
    :param inbox: the number of messages at which reading pauses, so that TCP holds the peer.
    """

    __slots__ = (
        "__weakref__",
        "_calls_after_end",
        "_closers",
        "_hub",
        "_inbox",
        "_offer",
        "_owner",
        "_state",
        "_subprotocol",
        "_subscribers",
        "_wire",
        "send_queue",
    )

    transport = "websocket"

    def __init__(
        self,
        offer: Offer,
        clock: IReactorTime,
        *,
        hub: Hub | None = None,
        inbox: int = 64,
    ) -> None:
        self._offer: Offer | None = offer
        self._hub = hub
        self._state = _OFFERED
        self._subprotocol: str | None = None
        self._wire: Wire | None = None
        self._inbox = Inbox(clock, inbox)
        #: Tasks and subscribers that wait for room to send.
        self.send_queue = SendQueue()
        # By topic.
        self._subscribers = _NO_SUBSCRIBERS
        self._owner: Owner | None = None
        self._calls_after_end = 0
        # What awaits the end of the connection.
        self._closers: list[Deferred[None]] | tuple[()] = ()

    # What views call

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on, or None."""
        return self._subprotocol

    def accept(self, subprotocol: str | None = None) -> None:
        """Open the connection now, speaking one of the subprotocols that the client offers.

        Calling it is optional; without it the connection opens when it is first needed, with
        no subprotocol. Raises ValueError for a subprotocol that was not offered (RFC 6455
        §4.2.2), and RuntimeError when one is asked for after the handshake has been answered.
        """
        if self._offer is None:
            if self._state is _OPEN and subprotocol not in (None, self._subprotocol):
                raise RuntimeError("the handshake was answered before: accept() comes first")
            return
        if subprotocol is not None and subprotocol not in self._offer.subprotocols:
            raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}")
        offer, self._offer = self._offer, None
        self._state = _OPEN
        self._subprotocol = subprotocol
        self._wire = self._inbox.source = offer.accept(self, subprotocol)
        self._wire.resume_reading()

    def wait(self, timeout: float | None = None) -> Deferred[str | bytes | None]:
        """Await the next message: ``str`` for text, ``bytes`` for binary.

        None means that the conversation is over, as often as asked. One task at a time may
        wait: a second gets RuntimeError.

        :param timeout: seconds until TimeoutError; nothing is lost by it.
        """
        if self._state is _OFFERED:
            self.accept()
        if timeout is not None and not 0 <= timeout < inf:
            raise ValueError(f"timeout is {timeout}: seconds from 0 on, or None")
        if self._inbox.waiter is not None:
            raise RuntimeError("another task waits for this WebSocket's next message already")
        if self._inbox:
            return succeed(self._inbox.take())
        if self._state is not _OPEN:
            self._end_owner(_CALLS_AFTER_END)
            return succeed(None)
        return self._inbox.wait(timeout)

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Give the next message if one is here, else the fallback; never wait."""
        self.accept()
        return self._inbox.take() if self._inbox else fallback

    def count_messages(self) -> int:
        """How many messages wait to be read."""
        self.accept()
        return len(self._inbox)

    def has_messages(self) -> bool:
        """Whether a message waits to be read."""
        if self._state is _OFFERED:
            self.accept()
        return bool(self._inbox)

    def send(self, data: str | bytes, *, binary: bool = False) -> Deferred[None]:
        """Send one message: a text frame, or with ``binary=True`` a binary one.

        It is on its way when the call returns, or with what other views say in the same turn of
        the reactor, at the end of that. The Deferred fires once the connection can take
        more: await it to go at the browser's pace, or leave it.

        After the end of the conversation nothing is sent: other tasks are not bothered, the
        view itself is ended (CancelledError).

        Raises TypeError for what is neither ``str`` nor ``bytes`` and for a ``str`` to be sent
        as binary, and ValueError for text that is not UTF-8; the socket is as it was then.
        """
        payload = _encode(data, binary)
        if self._state is _OFFERED:
            self.accept()
        if self._subscribers:
            self._catch_up()  # Which may be the end of it.
        if self._wire is None or self._state is not _OPEN:
            self._end_owner(0)
            return succeed(None)
        self._wire.send(payload, binary=binary)
        return self.send_queue.wait() if self.send_queue.paused else succeed(None)

    def close(self, code: int = NORMAL.code, reason: str = "") -> Deferred[None]:
        """Close the conversation; the Deferred fires when the connection is gone.

        The Close frame leaves at once. Closing what is closed does nothing. Raises ValueError
        for a code that may not go on the wire (RFC 6455 §7.4) or a reason over 123 bytes.
        """
        return self.close_with(Closing(code, reason))

    def subscribe(self, topic: str, after: str | None = None) -> Deferred[bool]:
        """Let the browser have what is published to a topic, since an id or from now on.

        Each publication goes to it as a frame of its own, past the view. The Deferred fires with
        whether nothing is missing since ``after``; False where there was no such id, as well.

        Raises ValueError for what is no topic or no id, or for a topic subscribed to already.
        """
        check_topic(topic)
        id = None if after is None else Id.parse(after)
        if topic in self._subscribers:
            raise ValueError(f"this WebSocket is subscribed to {topic} already")
        if self._hub is None:
            raise RuntimeError("this WebSocket has no topics to subscribe to")
        self.accept()
        if self._state is not _OPEN:
            self._end_owner(0)
            return succeed(False)
        if not self._subscribers:
            self._subscribers = {}
        kind = JsonWebSocketSubscriber if self._subprotocol == V1 else WebSocketSubscriber
        subscriber = self._subscribers[topic] = kind(self)
        subscriber.start(self._hub, topic, id)
        return subscriber.begun

    def unsubscribe(self, topic: str) -> None:
        """Let the browser have no more of a topic; nothing happens if it had none."""
        subscriber = self._subscribers.pop(topic, None)
        if subscriber is not None:
            self.send_queue.discard(subscriber)
            subscriber.stop()

    def is_closed(self) -> bool:
        """Whether either side has closed or vanished."""
        return self._state in (_CLOSING, _CLOSED)

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        message = await self.wait()
        if message is None:
            raise StopAsyncIteration
        return message

    # What the conversation and the connection call

    @property
    def is_offered(self) -> bool:
        """Whether the handshake has not been answered."""
        return self._state is _OFFERED

    def belong_to(self, owner: Owner) -> None:
        """Name the view that is ended by the end, or by a send after it."""
        self._owner = owner

    def will_tell(self, awaited: object) -> bool:
        """Whether a task that awaits this is told by it when the conversation ends.

        None stands for a task of which it is not known what it awaits.
        """
        if awaited is None:
            return self._inbox.waiter is not None or bool(self._closers)
        return awaited is self._inbox.waiter or awaited in self._closers

    def close_with(self, closing: Closing) -> Deferred[None]:
        """Close the conversation in a given way; see ``close``."""
        self.accept()
        if self._wire is not None and self._state is _OPEN:
            self._catch_up()
        if self._wire is not None and self._state is _OPEN:
            wire = self._wire
            # First the end, or what the wire still delivers would be taken for news.
            self.conversation_ended()
            wire.close(closing)
        if self._state is _CLOSED:
            return succeed(None)
        if isinstance(self._closers, tuple):
            self._closers = []
        closer: Deferred[None] = Deferred(self._closers.remove)
        self._closers.append(closer)
        return closer

    @property
    def wire(self) -> Wire:
        """The connection itself, of a conversation that is open."""
        assert self._wire is not None
        return self._wire

    def message_received(self, message: str | bytes) -> None:
        """Take a message from the connection."""
        if self._state is _OPEN:
            self._inbox.put(message)

    def writing_deferred(self) -> None:
        """Note that data waits in the transport's buffer: what follows must go behind it."""
        for subscriber in self._subscribers.values():
            subscriber.leave_group()

    def conversation_ended(self) -> None:
        """Note that one side has closed: no message comes or goes any more."""
        if self.is_closed():
            return
        self._state = _CLOSING
        self._offer = None
        # All before any is told, or what one publishes at its end would go out with another.
        for subscriber in self._subscribers.values():
            subscriber.cancel()
        while self._subscribers:
            self._subscribers.popitem()[1].stop()
        # The owner first, as it asks what its view awaits.
        if self._owner is not None:
            self._owner.end()
        self._inbox.end()
        self.send_queue.resume()
        if self._owner is not None:
            self._owner.view_notified()

    def connection_lost(self) -> None:
        """Note that the connection is gone, whichever side ended it."""
        self.conversation_ended()
        self._state = _CLOSED
        self._wire = self._inbox.source = None
        while self._closers:
            assert isinstance(self._closers, list)
            self._closers.pop(0).callback(None)

    # Private

    def _catch_up(self) -> None:
        """Let what was published before this moment go out before what follows."""
        if self._hub is not None:
            self._hub.flush()

    def _end_owner(self, patience: int) -> None:
        running = self._owner.running if self._owner is not None else False
        if running is False:
            return
        self._calls_after_end += 1
        # Where it may be another task that asks, it has the patience of one that only waits.
        if self._calls_after_end > (patience if running else _CALLS_AFTER_END):
            raise CancelledError("the conversation is over")


def _encode(data: str | bytes, binary: bool) -> bytes:
    if isinstance(data, str):
        if binary:
            raise TypeError("binary=True sends bytes, not str")
        return data.encode()
    if not isinstance(data, bytes):
        raise TypeError(f"send takes str or bytes, not {type(data).__name__}")
    if not binary:
        data.decode()  # A text frame holds UTF-8 (RFC 6455 §5.6); raises UnicodeDecodeError.
    return data
