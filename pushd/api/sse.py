"""Topics over Server-Sent Events (WHATWG HTML §9.2)."""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from pushd.access.closing import HISTORY_GAP, PEER, TRY_AGAIN_LATER, US, Closing, Ending
from pushd.access.counters import Traffic
from pushd.access.memory import Usage
from pushd.api.keep_alives import KeptAlive, heartbeat_event
from pushd.protocols.cork import Cork
from pushd.protocols.json_format import (
    presence_event_json,
    publication_json,
    subscription_json,
    to_json,
)
from pushd.protocols.twisted_internals import unsent, untaken
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.hub import Hub
from pushd.topics.presence import Notice, Presence, PresenceChange, PresenceList, Watch
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

# How much of what is more than may wait is given to the connection at a time, in bytes. The rest is
# not copied: all streams that send the same event share it.
_PIECE = 1 << 18

_COMMENT = b":\n\n"

#: Headers of an event stream.
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    # A proxy that compresses what it passes on would hold events back until its buffer is full.
    "cache-control": "no-cache, no-transform",
    # Without this, nginx holds events back until its buffer is full.
    "x-accel-buffering": "no",
}


@implementer(IPushProducer)
class EventStream:
    """One response that streams a topic.

    The first event is ``subscribed``, with the same JSON as in ``pushd.v1``. Then each publication
    is one event; ``event_for`` says how it is written. For a client that asks for heartbeats, one
    precedes all, and the others come in place of comments.

    It is written directly to the socket while nothing waits before it, and can be in a fan-out
    group. So the chunks of HTTP/1.1 are part of what is rendered once for all streams; twisted.web
    would make them for each.

    :param keep_alives: the time-outs of streams with the same interval.
    :param cork: through which all connections write.
    :param max_buffered: bytes that may wait for a slow client.
    :param heartbeat: the interval of heartbeats, in seconds; None for comments.
    :param format_json: whether the data of each event is the JSON of ``pushd.v1``, in which what
        was published as JSON is a value.
    :param envelope: whether publications are ``message`` events, their data that JSON.
    """

    transport = "sse"

    def __init__(
        self,
        request: Any,
        keep_alives: TimeoutQueue[KeptAlive],
        cork: Cork,
        max_buffered: int,
        heartbeat: int | None = None,
        *,
        format_json: bool = False,
        envelope: bool = False,
    ) -> None:
        self._request = request
        self._transport = request.channel.transport
        self._keep_alives = keep_alives
        self._cork = cork
        self._writer = cork.writer(self._transport, self)
        self._max_buffered = max_buffered
        self._heartbeat = b"" if heartbeat is None else heartbeat_event(heartbeat)
        self._topic = ""
        # How some events are framed: HTTP/1.0 has no chunks.
        self._is_chunked = request.clientproto == b"HTTP/1.1"
        self._frame = chunk if self._is_chunked else bytes
        self._form = _framed(_FORMS[envelope, format_json], self._frame)
        self._subscription: Subscription | None = None
        self._watch: Watch | None = None
        self._paused = False
        # Bytes of the batch that it did not take when it was last asked.
        self._refused = 0
        # What is left of an event that is larger, as written, than what may wait, and what follows
        # it; only while the connection's buffer is full.
        self._held: deque[memoryview] = deque()
        # True if the response ends once that is written.
        self._finishing = False
        self._open = True
        self.traffic = Traffic()
        #: How the stream ended. If the daemon does not end it, the client did.
        self.ending = Ending(1006, PEER, "the client disconnected")

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Send the headers, and subscribe."""
        self._begin()
        self._topic = topic
        subscription = hub.subscribe(topic, self, after)
        if self._open:
            self._subscription = subscription
        else:
            subscription.cancel()

    def _begin(self) -> None:
        """Set the headers, which are sent with the first event."""
        for name, value in STREAM_HEADERS.items():
            self._request.setHeader(name, value)
        self._request.registerProducer(self, True)
        self._keep_alives.start(self)

    def tell_presence(self, presence: Presence, topic: str) -> None:
        """Tell who is present at a topic from now on, unless the stream has ended."""
        if self._open:
            self._watch = presence.watch(topic, self)

    # What the subscription calls

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Send the first event. Its id is where a client that reconnects at once continues."""
        self.traffic.messages_out += 1
        event = _event("subscribed", id, to_json(subscription_json(topic, id, recovered)))
        self._write(self._frame(self._heartbeat + event))

    def deliver(self, batch: Batch) -> None:
        """Send publications."""
        self.traffic.messages_out += batch.count
        self._write(batch.render(self._form))

    def has_room(self) -> bool:
        """Return whether the connection's buffer may take more."""
        return self._open and not self._paused

    def keeps_up(self) -> bool:
        """Return whether no more than ``max_buffered`` bytes wait, with what it did not take."""
        return not self._paused or self._unsent() + self._refused <= self._max_buffered

    def can_take(self, batch: Batch) -> bool:
        """Return whether no more than ``max_buffered`` bytes would wait, or nothing waits yet."""
        self._refused = 0
        if not self._paused:
            return True
        size = len(batch.render(self._form))
        if self._unsent() + size <= self._max_buffered:
            return True
        self._refused = size
        return False

    @property
    def taken(self) -> int:
        """How many bytes the client has taken, counted from any start."""
        held = sum(map(len, self._held))
        return self.traffic.bytes_out - held - untaken(self._transport)

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly to the socket if nothing is buffered before it."""
        if not self._open or self._held:
            return None
        send = self._cork.sender(self._transport)
        return None if send is None else DirectWrite(self._form, send, self._buffer, self.traffic)

    @property
    def is_paused(self) -> bool:
        """Whether the connection's buffer is full."""
        return self._paused

    def subscription_lost(self) -> None:
        """End the response, so that the browser reconnects with its last id."""
        if self.keeps_up():
            self.close_with(HISTORY_GAP)
        else:
            self._break_off()

    def notify(self, notice: Notice) -> bool:
        """Send what presence tells, if there is room."""
        if self._paused or self._held:
            return False
        self.traffic.messages_out += len(notice.events)
        self._write(notice.render(_framed(_presence_events, self._frame)))
        return True

    # What the connection and the daemon call

    def writing_deferred(self) -> None:
        """Leave the fan-out group: the kernel did not take all, and the rest must go first."""
        if self._subscription is not None:
            self._subscription.leave_group()

    def pauseProducing(self) -> None:
        """Note that the connection's buffer is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Continue with what is left of a large event, then with the history."""
        self._paused = False
        self._write_held()
        if self._paused:
            return
        if self._finishing:
            self._finish()
        elif self._subscription is not None:
            self._subscription.resume()
        if self._watch is not None and not self._paused:
            self._watch.resume()

    def stopProducing(self) -> None:
        """Do nothing: ``forget`` follows."""

    def keep_alive(self) -> None:
        """Send a heartbeat or a comment, unless data waits: then the stream is not silent.

        It is sent after each interval, whatever was sent meanwhile: to note the time of each event
        would cost more.
        """
        self._keep_alives.start(self)
        if not self._paused:
            self._write(self._frame(self._heartbeat or _COMMENT))

    def close_with(self, closing: Closing) -> Deferred[None]:
        """End the response in order; the browser reconnects by itself."""
        self.ending = Ending(closing.code, US, closing.reason)
        self.end_waiting()
        return succeed(None)

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the response if its topic matches."""
        ends = self._open and matches(self._topic)
        if ends:
            self.close_with(closing)
        return int(ends)

    def end_waiting(self) -> None:
        """End the response in order: the client has closed its side, and may be gone."""
        if self._open:
            self._stop()
            self._finishing = True
            if not self._held:
                self._finish()

    def count_held(self, usage: Usage) -> int:
        """Return the bytes that wait to be written; of what many streams hold, only once."""
        return sum(usage.count_once(piece.obj, len(piece)) for piece in self._held)

    def break_off(self, closing: Closing) -> None:
        """End the response at once, with what waits, as its connection is about to be reset."""
        self.ending = Ending(closing.code, US, closing.reason)
        self.forget()

    def forget(self) -> None:
        """Cancel everything: the client has disconnected, or the response has ended."""
        self._stop()
        self._held.clear()
        # It refers to this stream.
        self._writer = self._request

    def _stop(self) -> None:
        self._open = False
        self._keep_alives.stop(self)
        # They refer to each other, which would keep what is buffered until garbage is collected.
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()

    def _write(self, data: bytes) -> None:
        """Write something as it is framed, unless too much waits already."""
        if self._unsent() > self._max_buffered:
            self._break_off()
        else:
            self.traffic.bytes_out += len(data)
            self._buffer(data)

    def _buffer(self, data: bytes, sent: int = 0) -> None:
        """Write what has been counted, from a place on; it is held if it is too much."""
        size = len(data) - sent
        if self._held or self._unsent() + size > self._max_buffered:
            self._held.append(memoryview(data)[sent:])
            self._write_held()
        else:
            self._pass_on(data[sent:])

    def _write_held(self) -> None:
        """Write pieces of what is held until the connection's buffer is full."""
        while self._held and not self._paused:
            rest = self._held.popleft()
            if len(rest) > _PIECE:
                self._held.appendleft(rest[_PIECE:])
            self._pass_on(bytes(rest[:_PIECE]))

    def _pass_on(self, data: bytes) -> None:
        """Give something to the connection."""
        self._request.sentLength += len(data)
        if not self._request.startedWriting:
            data = self._make_head() + data
        # Only the channel counts what grows a buffer that is full.
        (self._request.channel if self._paused else self._writer).write(data)

    def _make_head(self) -> bytes:
        """Return the head, and let twisted.web know that it is written."""
        request = self._request
        request.startedWriting, request.chunked = 1, int(self._is_chunked)
        if self._is_chunked:
            request.setHeader("transfer-encoding", "chunked")
        head: bytes = request.channel.make_head(
            request.clientproto, b"200", b"OK", request.responseHeaders
        )
        return head

    def _finish(self) -> None:
        self._cork.flush()  # Before something is written in another way.
        self._request.unregisterProducer()
        self._request.finish()

    def _break_off(self) -> None:
        """Abort the connection of a client that is too slow.

        SSE has no close code, and an end in order would stand behind what the client does not read.
        The browser reconnects.
        """
        self.ending = Ending(TRY_AGAIN_LATER.code, US, TRY_AGAIN_LATER.reason)
        self.forget()
        self._request.channel.abort()

    def _unsent(self) -> int:
        return unsent(self._transport) + sum(map(len, self._held))


def chunk(data: bytes) -> bytes:
    """Return some data as a chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def _framed(
    form: Callable[[Any], bytes], frame: Callable[[bytes], bytes]
) -> Callable[[Any], bytes]:
    """Return a form whose bytes are framed; always the same function for the same two."""
    return lambda value: frame(form(value))


def event_for(publication: Publication) -> bytes:
    """Return the event of a publication, with the name that it was published with.

    Without a name, text is a ``message`` event. Data that would not arrive unchanged has an event
    of its own: bytes are ``base64``, and text with a carriage return is ``json``, its data a
    string. If it has a name, too, that is in the event's data: the object of ``pushd.v1``.
    """
    data, name = publication.data, publication.event
    # A carriage return would end a line and arrive as a line feed.
    if isinstance(data, str) and "\r" not in data:
        return _event(name, publication.id, data)
    if name is not None:
        return _event("json", publication.id, publication_json(publication))
    if isinstance(data, bytes):
        return _event("base64", publication.id, b64encode(data).decode())
    return _event("json", publication.id, to_json(data))


def json_event_for(publication: Publication) -> bytes:
    """Return the event of a publication, its data the object that ``pushd.v1`` sends."""
    data = publication_json(publication, format_json=True)
    return _event(publication.event, publication.id, data)


def envelope_for(publication: Publication) -> bytes:
    """Return a ``message`` event, its data the object that ``pushd.v1`` sends, with any event."""
    return _event(None, publication.id, publication_json(publication))


def json_envelope_for(publication: Publication) -> bytes:
    """Return the same, with what was published as JSON as a value."""
    return _event(None, publication.id, publication_json(publication, format_json=True))


# How publications are written: whether in an envelope, and whether JSON is a value.
_FORMS = {
    (False, False): event_for,
    (False, True): json_event_for,
    (True, False): envelope_for,
    (True, True): json_envelope_for,
}


def _event(kind: str | None, id: Id, data: str) -> bytes:
    head = f"event: {kind}\n" if kind else ""
    lines = data.replace("\n", "\ndata: ")
    return f"{head}id: {id}\ndata: {lines}\n\n".encode()


def _presence_events(events: Sequence[PresenceList | PresenceChange]) -> bytes:
    """Return events of presence; they have no id, as that would become the client's last id."""
    written = []
    for event in events:
        value = presence_event_json(event)
        kind = next(iter(value))  # presence, joined or left
        written.append(f"event: {kind}\ndata: {to_json(value)}\n\n")
    return "".join(written).encode()
