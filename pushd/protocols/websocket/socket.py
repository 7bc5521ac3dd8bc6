"""What a view holds of its conversation with a browser."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from math import inf
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pushd.access.closing import NORMAL, Closing
from pushd.protocols.websocket.subscriber import (
    V1,
    FrameWriter,
    JsonWebSocketSubscriber,
    WebSocketSubscriber,
)
from pushd.topics.hub import Hub
from pushd.topics.publication import Id, check_topic

# The inbox holds so many bytes beside its number of messages, or 64 messages of the largest
# size would be 64 MiB a connection.
_INBOX_BYTES = 1 << 20

#: A view that makes so many calls after the end, and reads no message in between, would keep the
#: reactor busy until its grace is over: it is ended at once. A wait counts as many calls, as None
#: has told the view that nothing will come.
MAX_VAIN_CALLS = 10_000
VAIN_WAIT = 100

# What all have until they listen to something: never changed, only replaced.
_NO_FEEDS: dict[str, WebSocketSubscriber] = {}


class Wire(FrameWriter, Protocol):
    """An open WebSocket connection, as a conversation needs it."""

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Put one message on its way, as one frame. Raises ValueError for one that is too big."""

    def is_full(self) -> bool:
        """Whether more waits for the peer than may."""

    def close(self, closing: Closing) -> None:
        """Send the Close frame and see to it that the connection ends in time."""

    def pause_reading(self) -> None:
        """Deliver no more messages until reading is resumed."""

    def resume_reading(self) -> None:
        """Deliver what came meanwhile, and go on."""


class Offer(Protocol):
    """An opening handshake that has not been answered."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that the client offers, the one it likes best first."""

    def accept(self, websocket: WebSocket, subprotocol: str | None) -> Wire:
        """Answer 101; the wire delivers to the WebSocket once its reading is resumed."""


class Owner(Protocol):
    """The view that a WebSocket was made for, told apart from other code that uses it."""

    @property
    def is_calling(self) -> bool | None:
        """Whether the call under way comes from the view; None where that can't be known."""

    def end(self) -> None:
        """End the view if nothing else can come for it."""

    def view_notified(self) -> None:
        """Start the view's grace: by now it has been told, if it waited for its WebSocket."""

    def message_read(self) -> None:
        """Renew the view's grace: it has read a message after the end."""


class _State(Enum):
    """Where a WebSocket stands between the client's request and the end of its connection."""

    OFFERED = "the handshake is not answered"
    OPEN = "both sides may speak"
    CLOSING = "one side has closed"
    CLOSED = "the connection is gone"


class WebSocket:
    """One browser's side of a conversation, in a view's hands as ``request.websocket``.

    The 101 that opens the connection goes out when the view first needs it open: at the first
    call of any method but ``is_closed``. A view that returns an HTTP answer before that refuses
    the handshake with it.

    :param offer: the handshake to answer.
    :param clock: where time-outs come from.
    :param hub: where topics can be subscribed to.
    :param inbox: how many messages may wait before reading pauses; so long TCP holds the peer.
    """

    __slots__ = (
        "__weakref__",
        "_capacity",
        "_clock",
        "_closers",
        "_feeds",
        "_grace_over",
        "_hub",
        "_inbox",
        "_inbox_bytes",
        "_offer",
        "_owner",
        "_reading_paused",
        "_senders",
        "_state",
        "_subprotocol",
        "_timer",
        "_vain_calls",
        "_waiter",
        "_waiting_feeds",
        "_wire",
        "close_code",
        "close_reason",
        "is_writing_paused",
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
        self._clock = clock
        self._hub = hub
        self._feeds = _NO_FEEDS
        # Those that have more to send than there was room for, in the order in which they asked.
        self._waiting_feeds: dict[WebSocketSubscriber, None] = {}
        self._capacity = inbox
        self._state = _State.OFFERED
        self._subprotocol: str | None = None
        self._wire: Wire | None = None
        self._owner: Owner | None = None
        # A deque from the first message on that has to wait: an empty one takes half a KiB.
        self._inbox: deque[str | bytes] | tuple[()] = ()
        self._inbox_bytes = 0
        self._reading_paused = False
        self.is_writing_paused = False
        self._grace_over = False
        self._vain_calls = 0
        #: How the conversation ended: the code and the reason of the Close frame of the side that
        #: closed first. The code is None until then, 1005 if the peer's frame had none, and 1006
        #: if the connection was lost without one (RFC 6455 §7.1.5).
        self.close_code: int | None = None
        self.close_reason = ""
        # What views wait for: the next message, for so long at most; room to send; the end of the
        # connection.
        self._waiter: Deferred[str | bytes | None] | None = None
        self._timer: IDelayedCall | None = None
        self._senders: deque[Deferred[None]] | tuple[()] = ()
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
            if self._state is _State.OPEN and subprotocol not in (None, self._subprotocol):
                raise RuntimeError("the handshake was answered before: accept() comes first")
            return
        if subprotocol is not None and subprotocol not in self._offer.subprotocols:
            raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}")
        offer, self._offer = self._offer, None
        self._state = _State.OPEN
        self._subprotocol = subprotocol
        self._wire = offer.accept(self, subprotocol)
        self._wire.resume_reading()

    def wait(self, timeout: float | None = None) -> Deferred[str | bytes | None]:
        """Await the next message: ``str`` for text, ``bytes`` for binary.

        Messages that arrived before the end come first; then None means that the conversation is
        over, as often as asked. One task at a time may wait: a second gets RuntimeError.

        :param timeout: seconds until TimeoutError; nothing is lost by it.
        """
        if self._offer is not None:
            self.accept()
        if timeout is not None and not 0 <= timeout < inf:
            raise ValueError(f"timeout is {timeout}: seconds from 0 on, or None")
        if self._waiter is not None:
            raise RuntimeError("another task waits for this WebSocket's next message already")
        if self._inbox:
            return succeed(self._take())
        if self._state is not _State.OPEN:
            self._called_in_vain(VAIN_WAIT)
            return succeed(None)
        if timeout is not None:
            # First, as it may refuse what is no number to it.
            self._timer = self._clock.callLater(timeout, self._time_out, timeout)
        waiter: Deferred[str | bytes | None] = Deferred(self._cancel_waiter)
        self._waiter = waiter
        return waiter

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Give the next message if one is here, else the fallback; never wait."""
        self.accept()
        return self._take() if self._inbox else fallback

    def count_messages(self) -> int:
        """How many messages wait to be read."""
        self.accept()
        return len(self._inbox)

    def has_messages(self) -> bool:
        """Whether a message waits to be read."""
        if self._offer is not None:
            self.accept()
        return bool(self._inbox)

    def send(
        self, data: str | bytes | bytearray | memoryview, *, binary: bool = False
    ) -> Deferred[None]:
        """Send one message: a text frame, or with ``binary=True`` a binary one.

        It is on its way when the call returns, or with what other views say in the same turn of
        the reactor, at the end of that. The Deferred fires once the connection can take
        more: await it to go at the browser's pace, or leave it.

        After the end of the conversation nothing is sent, and nothing is raised within the
        view's grace.

        Raises TypeError for what is neither ``str`` nor bytes (``bytes``, ``bytearray`` or
        ``memoryview``) and for a ``str`` to be sent as binary, and ValueError for text that is
        not UTF-8; the socket is as it was then.
        """
        payload = _encode(data, binary)
        if self._offer is not None:
            self.accept()
        if self._feeds:
            self._catch_up()  # Which may be the end of it.
        if self._wire is None or self._state is not _State.OPEN:
            self._called_in_vain(1)
            return succeed(None)
        self._wire.send(payload, binary=binary)
        if not self.is_writing_paused:
            return succeed(None)
        if isinstance(self._senders, tuple):
            self._senders = deque()
        sender: Deferred[None] = Deferred(self._senders.remove)
        self._senders.append(sender)
        return sender

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
        if topic in self._feeds:
            raise ValueError(f"this WebSocket is subscribed to {topic} already")
        if self._hub is None:
            raise RuntimeError("this WebSocket has no topics to subscribe to")
        self.accept()
        if self._state is not _State.OPEN:
            self._called_in_vain(1)
            return succeed(False)
        if not self._feeds:
            self._feeds = {}
        feed = (JsonWebSocketSubscriber if self._subprotocol == V1 else WebSocketSubscriber)(self)
        self._feeds[topic] = feed
        feed.start(self._hub, topic, id)
        return feed.begun

    def unsubscribe(self, topic: str) -> None:
        """Let the browser have no more of a topic; nothing happens if it had none."""
        feed = self._feeds.pop(topic, None)
        if feed is not None:
            self._waiting_feeds.pop(feed, None)
            feed.stop()

    def is_closed(self) -> bool:
        """Whether either side has closed or vanished."""
        return self._state in (_State.CLOSING, _State.CLOSED)

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
        """Whether the handshake still waits for its answer."""
        return self._offer is not None

    def belong_to(self, owner: Owner) -> None:
        """Name the view that this WebSocket was made for."""
        self._owner = owner

    @property
    def is_grace_over(self) -> bool:
        """Whether the view has had its time after the end of the conversation."""
        return self._grace_over

    def grace_expired(self) -> None:
        """Take note that the view has had its time: what it has not read is dropped."""
        self._grace_over = True
        self._inbox, self._inbox_bytes = (), 0

    def will_tell(self, awaited: object) -> bool:
        """Whether a task that awaits this is told by it when the conversation ends.

        None stands for a task of which it is not known what it awaits.
        """
        if awaited is None:
            return self._waiter is not None or bool(self._closers)
        return awaited is self._waiter or awaited in self._closers

    def close_with(self, closing: Closing) -> Deferred[None]:
        """Close the conversation in a given way; see ``close``."""
        self.accept()
        if self._wire is not None and self._state is _State.OPEN:
            self._catch_up()
        if self._wire is not None and self._state is _State.OPEN:
            wire = self._wire
            # First the end, or what the wire still delivers would be taken for news.
            self.conversation_ended(closing.code, closing.reason)
            wire.close(closing)
        if self._state is _State.CLOSED:
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

    def has_room_for(self, feed: WebSocketSubscriber) -> bool:
        """Whether the connection can take more just now; if not, the feed is told when it can."""
        if self.is_writing_paused:
            self._waiting_feeds[feed] = None
        return not self.is_writing_paused

    def keeps_up(self, feed: WebSocketSubscriber) -> bool:
        """Whether no more waits for the peer than may; if not, the feed is told when it is less."""
        if not self.is_writing_paused or not self.wire.is_full():
            return True
        self._waiting_feeds[feed] = None
        return False

    @property
    def takes_rest(self) -> bool:
        """Whether what arrived before the connection was lost may still be delivered."""
        return self._state is _State.OPEN and self._inbox_bytes < 2 * _INBOX_BYTES

    def message_received(self, message: str | bytes) -> None:
        """Take a message from the connection."""
        if self._state is not _State.OPEN:
            return
        if self._waiter is not None:
            self._take_waiter().callback(message)
            return
        if isinstance(self._inbox, tuple):
            self._inbox = deque()
        self._inbox.append(message)
        self._inbox_bytes += len(message)
        if self._wire is not None and not self._reading_paused and self._is_inbox_full():
            self._reading_paused = True
            self._wire.pause_reading()

    def writing_deferred(self) -> None:
        """Take note that something waits before the socket: what comes has to go behind it."""
        for feed in self._feeds.values():
            feed.leave_group()

    def writing_paused(self) -> None:
        """Hold those who await their send: the connection has enough to do."""
        self.is_writing_paused = True

    def writing_resumed(self) -> None:
        """Let those go on who awaited their send."""
        self.is_writing_paused = False
        while self._senders and not self.is_writing_paused:
            assert isinstance(self._senders, deque)
            self._senders.popleft().callback(None)
        while self._waiting_feeds and not self.is_writing_paused:
            waiting, self._waiting_feeds = self._waiting_feeds, {}
            while waiting and not self.is_writing_paused:
                feed = next(iter(waiting))
                del waiting[feed]
                # It comes to the end of the line if there is not room enough for all it has.
                feed.resume()
            self._waiting_feeds = waiting | self._waiting_feeds

    def conversation_ended(self, code: int = 1006, reason: str = "") -> None:
        """Take note that one side has closed: no message comes or goes any more.

        :param code: of the Close frame; by default the connection was lost without one.
        """
        if self.is_closed():
            return
        self._state = _State.CLOSING
        self.close_code, self.close_reason = code, reason
        self._offer = None
        # First all, or what the end of one makes somebody publish would go out with another.
        for feed in self._feeds.values():
            feed.mute()
        while self._feeds:
            self._feeds.popitem()[1].stop()
        # Before those who wait are told, or nobody would know for what it waited.
        if self._owner is not None:
            self._owner.end()
        if self._waiter is not None:
            self._take_waiter().callback(None)
        self.writing_resumed()
        if self._owner is not None:
            self._owner.view_notified()

    def connection_lost(self) -> None:
        """Take note that the connection is gone, whoever ended it."""
        self.conversation_ended()
        self._state = _State.CLOSED
        self._wire = None
        while self._closers:
            assert isinstance(self._closers, list)
            self._closers.pop(0).callback(None)

    # Private

    def _catch_up(self) -> None:
        """Let what was published before this moment go out before what follows."""
        if self._hub is not None:
            self._hub.flush()

    def _take(self) -> str | bytes:
        assert isinstance(self._inbox, deque)
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        if self._reading_paused and self._is_inbox_half_empty() and self._wire:
            self._reading_paused = False
            self._wire.resume_reading()
        if self._state is not _State.OPEN and self._owner is not None:
            self._vain_calls = 0
            self._owner.message_read()
        return message

    def _is_inbox_full(self) -> bool:
        return len(self._inbox) >= self._capacity or self._inbox_bytes >= _INBOX_BYTES

    def _is_inbox_half_empty(self) -> bool:
        return len(self._inbox) <= self._capacity // 2 and self._inbox_bytes <= _INBOX_BYTES // 2

    def _take_waiter(self) -> Deferred[str | bytes | None]:
        """Who waits for a message, and will not any more."""
        waiter, timer = self._waiter, self._timer
        self._waiter = self._timer = None
        if timer is not None and timer.active():
            timer.cancel()
        assert waiter is not None  # It is asked by those who know.
        return waiter

    def _cancel_waiter(self, _: Deferred[str | bytes | None]) -> None:
        self._take_waiter()

    def _time_out(self, timeout: float) -> None:
        self._take_waiter().errback(TimeoutError(f"no message within {timeout:g} s"))

    def _called_in_vain(self, cost: int) -> None:
        """Count a call after the end; end the view if it goes on with that, or after its grace.

        Calls of other code are let pass, however many: only the view itself can be ended by this.
        """
        calling = self._owner.is_calling if self._owner is not None else False
        if calling is False:
            return
        # A view that returns a Deferred, and may be what calls, recurs with each call.
        self._vain_calls += cost if calling else VAIN_WAIT
        if self._vain_calls > MAX_VAIN_CALLS or (calling and self._grace_over):
            raise CancelledError("the conversation is over")


def _encode(data: str | bytes | bytearray | memoryview, binary: bool) -> bytes:
    if isinstance(data, str):
        if binary:
            raise TypeError("binary=True sends bytes, not str")
        return data.encode()
    if isinstance(data, (bytearray, memoryview)):
        data = bytes(data)
    elif not isinstance(data, bytes):
        raise TypeError(f"send takes str or bytes, not {type(data).__name__}")
    if not binary:
        data.decode()  # A text frame holds UTF-8 (RFC 6455 §5.6); raises UnicodeDecodeError.
    return data
