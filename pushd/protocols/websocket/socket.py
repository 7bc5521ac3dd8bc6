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

from collections.abc import Callable, Generator, Mapping, Sequence
from enum import Enum
from functools import partial
from math import inf
from types import MappingProxyType, coroutine
from typing import Any, Literal, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pushd.access.closing import NORMAL, TRY_AGAIN_LATER, Closing
from pushd.access.memory import Usage
from pushd.errors import ConversationOver
from pushd.protocols.websocket.frames import message as frame_of
from pushd.protocols.websocket.grace import MAX_IGNORED, TELLING_COST, THROTTLE, Grace
from pushd.protocols.websocket.inbox import Inbox, Source
from pushd.protocols.websocket.send_queue import SendQueue
from pushd.protocols.websocket.subscriber import (
    V1,
    FrameWriter,
    JsonValueWebSocketSubscriber,
    JsonWebSocketSubscriber,
    WebSocketSubscriber,
)
from pushd.topics.hub import Hub
from pushd.topics.presence import Attendance, PresenceList
from pushd.topics.publication import Id, check_topic

Result = TypeVar("Result")


class Participant(Protocol):
    """The connection as it takes part in presence."""

    def join(self, topic: str) -> Attendance | None:
        """Take part in a topic, if that has presence."""

    def describe(self, topic: str) -> Deferred[PresenceList]:
        """Return who is present at a topic. Raises ValueError if it has no presence."""


# The subscribers of a WebSocket that has none: replaced, never changed.
_NO_SUBSCRIBERS: dict[str, TopicSender] = {}

# What the closings of most WebSockets become.
_SAME: Mapping[Closing, Closing] = MappingProxyType({})

# Where one that chooses its topics itself is kept; no topic has this name.
_ATTACHED = ""


class TopicSender(Protocol):
    """What sends publications over a WebSocket, of one topic or of many, besides its view."""

    def catch_up(self) -> None:
        """Send what was published before this moment."""

    def leave_group(self) -> None:
        """Stop direct writes: data is about to be buffered, and what follows must go behind it."""

    def cancel(self) -> None:
        """Send nothing more."""

    def stop(self) -> None:
        """Send nothing more, and tell what waits for the start."""

    def resume(self) -> None:
        """Send on: the connection has room again."""


class Wire(FrameWriter, Source, Protocol):
    """An open WebSocket connection: a ``PushProtocol``."""

    #: Called once all has been delivered that arrived together.
    after_read: Callable[[], object] | None

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Send one message as one frame. Raises ValueError if it is longer than allowed."""

    def close(self, closing: Closing) -> None:
        """Send a Close frame, and end the connection in time."""


class Offer(Protocol):
    """An opening handshake that has not been answered: that of a ``WebSocketExchange``."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """The subprotocols that the client offers, in its order of preference."""

    def accept(
        self,
        websocket: WebSocket,
        subprotocol: str | None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> Wire:
        """Answer 101; the wire delivers to the WebSocket once its reading is resumed."""


class Owner(Protocol):
    """The run of the view that a WebSocket was made for, a ``ViewRun``.

    Other code may use the WebSocket as well; only its owner has a grace.
    """

    @property
    def is_calling(self) -> bool | None:
        """Whether the call under way comes from the view; None if that cannot be known."""

    @property
    def cancellation(self) -> type[BaseException]:
        """What is raised where the view is ended: Twisted's CancelledError, or asyncio's."""

    def end(self) -> None:
        """Cancel the view if it waits for a PushSchedule and has read everything."""

    def view_notified(self) -> None:
        """Start the view's grace: by now it has been notified, if it waited for its WebSocket."""

    def message_read(self) -> None:
        """Renew the view's grace: it has read a message after the end."""

    def drop(self) -> None:
        """End the view by force: it ignores that its calls are refused."""


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
        "_clock",
        "_close_called",
        "_close_waiters",
        "_end_topics",
        "_hub",
        "_inbox",
        "_offer",
        "_on_read",
        "_owner",
        "_state",
        "_subprotocol",
        "_subscribers",
        "_wire",
        "close_code",
        "close_reason",
        "closings",
        "grace",
        "participant",
        "send_queue",
        "serves_topics",
        "used_by_threads",
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
        self._state = _OFFERED
        self._subprotocol: str | None = None
        self._wire: Wire | None = None
        self._inbox = Inbox(clock, inbox)
        #: Tasks and subscribers that wait for room to send.
        self.send_queue = SendQueue()
        # By topic.
        self._subscribers = _NO_SUBSCRIBERS
        # Ends subscriptions in place of ``end_subscriptions``.
        self._end_topics: Callable[[Callable[[str], bool], Closing], int] | None = None
        self._owner: Owner | None = None
        #: Takes part in the presence of the topics that it is subscribed to, while it is open.
        self.participant: Participant | None = None
        #: Whether it is of no use without its subscriptions, as at ``/topics/…``.
        self.serves_topics = False
        #: What is sent in place of closings of the daemon, in a protocol that has codes of its own.
        self.closings = _SAME
        #: Whether a view in a thread uses it, by way of a BlockingWebSocket.
        self.used_by_threads = False
        #: What the view may still call; None until the end of the conversation.
        self.grace: Grace | None = None
        self._on_read: Callable[[], object] | None = None
        #: How the conversation ended: the code of the Close frame of the side that closed first. It
        #: is None until then, 1005 if the peer's frame had none, and 1006 if the connection was
        #: lost without one (RFC 6455 §7.1.5).
        self.close_code: int | None = None
        #: The reason in that Close frame; empty if it has none.
        self.close_reason = ""
        # Whether a view called ``close``.
        self._close_called = False
        # Deferreds of tasks that wait until the connection is gone.
        self._close_waiters: list[Deferred[None]] | tuple[()] = ()

    # What views call

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""
        return self._subprotocol

    def accept(
        self, subprotocol: str | None = None, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Open the connection now, with one of the subprotocols that the client offers.

        ``headers`` are added to the 101; the caller has checked them.

        Calling it is optional; without it the connection opens when it is first needed, with
        no subprotocol. Raises ValueError for a subprotocol that was not offered (RFC 6455
        §4.2.2), and RuntimeError for one after the handshake has been answered.
        """
        if self._offer is None:
            if self._state is _OPEN and subprotocol not in (None, self._subprotocol):
                raise RuntimeError(
                    "the handshake has been answered: call accept() before anything else"
                )
            return
        if subprotocol is not None and subprotocol not in self._offer.subprotocols:
            raise ValueError(f"the client does not offer the subprotocol {subprotocol!r}")
        offer, self._offer = self._offer, None
        self._state = _OPEN
        self._subprotocol = subprotocol
        self._wire = self._inbox.source = offer.accept(self, subprotocol, headers)
        self._wire.resume_reading()

    def wait(self, timeout: float | None = None) -> Deferred[str | bytes | None]:
        """Await the next message: ``str`` for text, ``bytes`` for binary.

        Messages that arrived before the end come first; then None means that the conversation is
        over, at this call and at all that follow. Only one task may wait at a time; a second gets
        RuntimeError.

        :param timeout: seconds until it raises TimeoutError; no message is lost by that.
        """
        if self._state is _OFFERED:
            self.accept()
        if timeout is not None and not 0 <= timeout < inf:
            raise ValueError(
                f"timeout must be 0 seconds or more, or None for no limit; got {timeout}"
            )
        if self._inbox.waiter is not None:
            raise RuntimeError("another task already waits for the next message of this WebSocket")
        if self._inbox.messages:
            return succeed(self._take())
        if self._state is not _OPEN:
            return self._call_after_end(None, tells_end=True)
        return self._inbox.wait(timeout)

    def read(self, fallback: str | bytes | None = None) -> str | bytes | None:
        """Return the next message if it has arrived, else the fallback; never wait."""
        self.accept()
        return self._take() if self._inbox.messages else fallback

    def read_arrived(self, most: int) -> list[str | bytes]:
        """Return up to a number of messages that have arrived; never wait."""
        self.accept()
        inbox = self._inbox
        take = inbox.take if self.grace is None else self._take
        return [take() for _ in range(min(most, len(inbox.messages)))]

    def gather(self) -> None:
        """From now on, let a task that waits go on only when all is there that came together."""
        self.accept()
        self._inbox.gathers = True
        if self._wire is not None:  # Or it has ended right behind the handshake.
            self._wire.after_read = self._inbox.deliver_gathered

    def count_messages(self) -> int:
        """Return the number of messages that have arrived and were not read."""
        self.accept()
        return len(self._inbox.messages)

    def has_messages(self) -> bool:
        """Whether a message has arrived that was not read."""
        if self._state is _OFFERED:
            self.accept()
        return bool(self._inbox.messages)

    def send(
        self, data: str | bytes | bytearray | memoryview, *, binary: bool = False
    ) -> Deferred[None]:
        """Send one message: a text frame, or with ``binary=True`` a binary one.

        It is written when the call returns, or at the end of the reactor iteration, together
        with the messages of other views. The Deferred fires when the connection can take more:
        await it to send at the browser's pace.

        After the end of the conversation nothing is sent, and nothing is raised within the
        view's grace.

        Raises TypeError for data that is neither ``str`` nor bytes (``bytes``, ``bytearray`` or
        ``memoryview``) and for a ``str`` to be sent as binary, and ValueError for text that is not
        UTF-8 and for a message longer than ``--max-message``; nothing has changed then.
        """
        payload = _encode(data, binary)
        if self._state is _OFFERED:
            self.accept()
        if self._subscribers:
            self._catch_up()  # This may end the conversation.
        if self._wire is None or self._state is not _OPEN:
            return self._call_after_end(None)
        self._wire.send(payload, binary=binary)
        return self.send_queue.wait() if self.send_queue.paused else succeed(None)

    def send_together(self, messages: Sequence[str]) -> Deferred[None]:
        """Send several messages of text as ``send`` does, but with one write."""
        wire = self._wire
        if wire is None or self._state is not _OPEN:
            return self._call_after_end(None)
        if self.send_queue.paused and wire.is_full():
            self.close_with(TRY_AGAIN_LATER)
            return succeed(None)
        bits = wire.window_bits
        frames = [frame_of(one.encode(), binary=False, window_bits=bits) for one in messages]
        data = b"".join(frames)
        wire.traffic.messages_out += len(frames)
        wire.traffic.bytes_out += len(data)
        wire.push_frames(data)
        return self.send_queue.wait() if self.send_queue.paused else succeed(None)

    def close(self, code: int = NORMAL.code, reason: str = "") -> Deferred[None]:
        """Close the conversation; the Deferred fires when the connection is gone.

        The Close frame is sent at once. Closing again does nothing. Raises ValueError for a code
        that must not be sent (RFC 6455 §7.4) and for a reason longer than 123 bytes.
        """
        if self._state is _CLOSED:
            Closing(code, reason)
            return self._call_after_end(None, in_grace_only=False)
        self.close_with(Closing(code, reason))
        self._close_called = True
        return self.gone()

    def subscribe(
        self, topic: str, after: str | None = None, *, format: Literal["json"] | None = None
    ) -> Deferred[bool]:
        """Send the browser what is published to a topic, since an id or from now on.

        Each publication is sent as a frame of its own; the view does not see it. The Deferred
        fires with True if nothing is missing since ``after``, else with False.

        :param format: with ``json``, and the subprotocol ``pushd.v1``, what was published as JSON
            is sent as a value, not as text.

        Raises ValueError for an invalid topic or id, and for a topic that it is subscribed to.
        """
        check_topic(topic)
        id = None if after is None else Id.parse(after)
        if topic in self._subscribers:
            raise ValueError(f"this WebSocket is already subscribed to {topic}")
        if self._hub is None:
            raise RuntimeError("this WebSocket has no topics to subscribe to")
        self.accept()
        if self._state is not _OPEN:
            return self._call_after_end(False)
        if not self._subscribers:
            self._subscribers = {}
        kind = WebSocketSubscriber
        if self._subprotocol == V1:
            kind = JsonWebSocketSubscriber if format is None else JsonValueWebSocketSubscriber
        subscriber = self._subscribers[topic] = kind(self)
        subscriber.start(self._hub, topic, id)
        if self.participant is not None:
            subscriber.attend(self.participant.join(topic))
        return subscriber.recovered

    def attach(
        self, sender: TopicSender, end_topics: Callable[[Callable[[str], bool], Closing], int]
    ) -> None:
        """Have something send publications that chooses its topics itself, until the end.

        :param end_topics: takes the place of ``end_subscriptions``.
        """
        self._subscribers = {_ATTACHED: sender}
        self._end_topics = end_topics

    def unsubscribe(self, topic: str) -> None:
        """Send no more publications of a topic; do nothing if it is not subscribed to."""
        subscriber = self._subscribers.pop(topic, None)
        if subscriber is not None:
            self.send_queue.discard(subscriber)
            subscriber.stop()

    def presence(self, topic: str) -> Deferred[PresenceList]:
        """Return who is present at a topic, over all nodes: subjects, and their connections.

        The Deferred fails with ``Unavailable`` if other nodes cannot be asked. Raises ValueError
        for an invalid topic, and for one whose rule has no presence.
        """
        self.accept()
        if self.participant is None:
            raise ValueError(f"topic {topic} has no presence, or the connection has ended")
        return self.participant.describe(topic)

    def is_closed(self) -> bool:
        """Whether one side has closed, or the connection is lost."""
        return self._state in (_CLOSING, _CLOSED)

    def __aiter__(self) -> WebSocket:
        return self

    @coroutine
    def __anext__(self) -> Generator[Any, Any, str | bytes]:
        """Await the next message, as ``wait`` does, and without a Deferred if it has to come."""
        if self._offer is not None:
            self.accept()
        inbox = self._inbox
        message: str | bytes | None
        if self._state is _OPEN and inbox.waiter is None and not inbox.messages:
            # As CheapAwaitable.__await__ does, but without a generator for each wait.
            result = yield inbox
            message = (yield inbox.as_deferred()) if result is inbox else result
        else:
            message = yield from self.wait().__await__()
        if message is None:
            raise StopAsyncIteration
        return message

    def call_with_next(self, resume: Callable[[str | bytes | Failure | None], object]) -> bool:
        """Call a function with the next message, or with None at the end: ``wait``, but cheaper.

        Returns False, and will not call it, if ``wait`` would not have to wait, or must refuse.
        """
        inbox = self._inbox
        if self._state is not _OPEN or inbox.waiter is not None or inbox.messages:
            return False
        inbox.start(resume)
        return True

    # What the run of the view and the connection call

    def set_owner(self, owner: Owner | None) -> None:
        """Set the run of the view that this WebSocket was made for; None once it has finished."""
        self._owner = owner
        if owner is None:
            self._all_read()

    def grace_expired(self) -> None:
        """Note that the view's grace is over: the messages that it has not read are dropped."""
        assert self.grace is not None
        self.grace.is_over = True
        self._inbox.clear()
        self._all_read()

    def view_dropped(self) -> None:
        """Note that the view was given up: what it awaits of this WebSocket never comes."""
        self.grace_expired()
        assert self.grace is not None
        self.grace.view_dropped = True

    def will_notify(self, awaited: object) -> bool:
        """Whether the end of the conversation notifies a task that awaits this."""
        return awaited is self._inbox.waiter or awaited in self._close_waiters

    def count_memory(self, usage: Usage) -> int:
        """Add the messages that were not read to the usage; return their bytes."""
        inbox = self._inbox
        if not inbox.messages:
            return 0
        size = inbox.memory
        usage.inbox += size
        return size

    def free_memory(self) -> None:
        """Drop the messages that were not read."""
        self._inbox.clear()
        if self._state is not _OPEN:
            self._all_read()

    @property
    def is_close_awaited(self) -> bool:
        """Whether ``close`` was called and has yet to fire, once the peer has taken what was sent.

        That is bounded: a peer has a minute for it.
        """
        return self._close_called and self._wire is not None

    def when_read(self, call: Callable[[], object]) -> None:
        """Call a function once no message is kept for the view, while ``is_unread`` is true.

        That is when the view has read them or has finished, or when its grace is over.
        """
        self._on_read = call

    @property
    def is_unread(self) -> bool:
        """Whether messages are kept that the view may still read."""
        return self._owner is not None and bool(self._inbox.messages)

    def close_with(self, closing: Closing) -> None:
        """Close with a code and a reason, as ``close`` does; what that returns is not made."""
        if self._offer is not None:
            self.accept()
        if self._wire is not None and self._state is _OPEN:
            self._catch_up()
        if self._wire is not None and self._state is _OPEN:
            wire, closing = self._wire, self.closings.get(closing, closing)
            # The end first, or messages that the wire still delivers would be taken.
            self.conversation_ended(closing.code, closing.reason)
            wire.close(closing)

    def gone(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection is gone; it may never have opened."""
        if self._state is _CLOSED:
            return succeed(None)
        if isinstance(self._close_waiters, tuple):
            self._close_waiters = []
        gone: Deferred[None] = Deferred(self._close_waiters.remove)
        self._close_waiters.append(gone)
        return gone

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match, without a word to the view."""
        if self._end_topics is not None:
            return self._end_topics(matches, closing)
        ended = [topic for topic in self._subscribers if matches(topic)]
        for topic in ended:
            self.unsubscribe(topic)
        if ended and self.serves_topics:
            self.close_with(closing)
        return len(ended)

    @property
    def wire(self) -> Wire:
        """The connection, as long as there is one."""
        assert self._wire is not None
        return self._wire

    @property
    def takes_rest(self) -> bool:
        """Whether messages that arrived before the connection was lost may still be delivered."""
        return self._state is _OPEN and self._inbox.takes_rest

    def message_received(self, message: str | bytes) -> None:
        """Take a message that has arrived."""
        if self._state is _OPEN:
            self._inbox.put(message)

    def writing_deferred(self) -> None:
        """Note that data waits in the transport's buffer: what follows must go behind it."""
        for subscriber in self._subscribers.values():
            subscriber.leave_group()

    def conversation_ended(self, code: int = 1006, reason: str = "") -> None:
        """Note that one side has closed: no message comes or goes any more.

        :param code: of the Close frame; by default the connection was lost without one.
        """
        if self._state in (_CLOSING, _CLOSED):
            return
        self._state = _CLOSING
        self.close_code, self.close_reason = code, reason
        self.grace = Grace()
        self.participant = self._end_topics = None
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
        if self._owner is not None and self.is_close_awaited:
            self._owner.view_notified()
        self._wire = self._inbox.source = None
        while self._close_waiters:
            assert isinstance(self._close_waiters, list)
            self._close_waiters.pop(0).callback(None)

    # Private

    def _catch_up(self) -> None:
        """Send what was published before this moment, ahead of what follows."""
        for subscriber in tuple(self._subscribers.values()):
            subscriber.catch_up()

    def _take(self) -> str | bytes:
        """Take the next message; one read after the end renews the view's grace."""
        message = self._inbox.take()
        if self.grace is not None and self._owner is not None:
            self.grace.message_read()
            self._owner.message_read()
            if not self._inbox.messages:
                self._all_read()
        return message

    def _all_read(self) -> None:
        call, self._on_read = self._on_read, None
        if call is not None:
            call()

    def _call_after_end(
        self, result: Result, *, tells_end: bool = False, in_grace_only: bool = True
    ) -> Deferred[Result]:
        """Answer a call after the end; refuse it if the view goes on with such calls.

        Only the view itself is ended; other code may make any number of calls, in its own time.

        :param result: what it gives within the limits.
        :param in_grace_only: whether it is refused after the view's grace, however few they were.
        """
        grace = self.grace
        assert grace is not None
        calling = self._owner.is_calling if self._owner is not None else False
        if calling is False or (calling is None and grace.view_dropped):
            if self.used_by_threads:  # They wait for each call, and are counted there.
                return succeed(result)
            delay = grace.delay_others(tells_end=tells_end)
            if not delay:
                return succeed(result)
            return self._later(delay, lambda answer: answer.callback(result))
        grace.has_told_end = grace.has_told_end or tells_end
        # A view that returns a Deferred, and may be what calls, recurs with each call.
        within_limit = grace.allows(TELLING_COST if tells_end or calling is None else 1)
        if within_limit and not (calling and in_grace_only and grace.is_over):
            return succeed(result)
        return self._refuse(grace, calling is True)

    def _refuse(self, grace: Grace, calling: bool) -> Deferred[Any]:
        """Refuse a call of the view, which may be in a loop that ignores every exception.

        Every other call raises, which ends a loop that does not await it, the first one an
        Exception. Those between raise only after a while, if they are awaited: that leaves the
        reactor free, whatever the loop ignores.
        """
        grace.refusals += 1
        if grace.refusals == 1:
            raise self._cancellation()
        if grace.refusals % 2:
            raise ConversationOver
        if grace.view_dropped:
            return Deferred()  # Nothing runs the view any further.
        return self._later(THROTTLE, partial(self._end_call, grace, calling))

    def _end_call(self, grace: Grace, calling: bool, answer: Deferred[Any]) -> None:
        """End the view, which has made a call that was refused."""
        if grace.view_dropped:
            return
        if calling and self._owner is not None and grace.refusals >= MAX_IGNORED:
            grace.view_dropped = True
            self._owner.drop()
            return
        answer.errback(self._cancellation())
        answer.addErrback(lambda _: None)  # If it is not awaited, nothing is to be logged.

    def _cancellation(self) -> BaseException:
        kind = CancelledError if self._owner is None else self._owner.cancellation
        return kind("the conversation is over")

    def _later(self, seconds: float, call: Callable[[Deferred[Any]], object]) -> Deferred[Any]:
        """Return a Deferred for a function that is called with it after a time."""

        def stop(_: object) -> None:
            if timer.active():
                timer.cancel()

        answer: Deferred[Any] = Deferred(stop)
        timer = self._clock.callLater(seconds, call, answer)
        return answer


def _encode(data: str | bytes | bytearray | memoryview, binary: bool) -> bytes:
    if isinstance(data, str):
        if binary:
            raise TypeError("binary=True sends bytes, not str")
        return data.encode()
    if type(data) is not bytes:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"send takes str or bytes, not {type(data).__name__}")
        data = bytes(data)
    if not binary:
        data.decode()  # A text frame holds UTF-8 (RFC 6455 §5.6); raises UnicodeDecodeError.
    return data
