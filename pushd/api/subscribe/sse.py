"""Topics over Server-Sent Events (WHATWG HTML §9.2)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from pushd.access.closing import HISTORY_GAP, Closing
from pushd.api.keep_alives import KeptAlive, heartbeat_event
from pushd.api.response_stream import STREAM_HEADERS, ResponseStream, chunk
from pushd.protocols.cork import Cork
from pushd.protocols.json_format import (
    presence_event_json,
    publication_json,
    subscription_json,
    to_json,
)
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.fanout import Batch, DirectWrite
from pushd.topics.hub import Hub
from pushd.topics.presence import Notice, Presence, PresenceChange, PresenceList, Watch
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

_COMMENT = b":\n\n"


class EventStream(ResponseStream):
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
        super().__init__(request, cork, max_buffered)
        self._keep_alives = keep_alives
        self._heartbeat = b"" if heartbeat is None else heartbeat_event(heartbeat)
        self._topic = ""
        # How some events are framed: HTTP/1.0 has no chunks.
        self._frame = chunk if self.is_chunked else bytes
        self._form = _framed(_FORMS[envelope, format_json], self._frame)
        self._subscription: Subscription | None = None
        self._watch: Watch | None = None
        # Bytes of the batch that it did not take when it was last asked.
        self._refused = 0

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
        self.begin(STREAM_HEADERS)
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

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly to the socket if nothing is buffered before it."""
        send = self.sender
        return None if send is None else DirectWrite(self._form, send, self._buffer, self.traffic)

    def subscription_lost(self) -> None:
        """End the response, so that the browser reconnects with its last id."""
        if self.keeps_up():
            self.close_with(HISTORY_GAP)
        else:
            self._cut_off()

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

    def keep_alive(self) -> None:
        """Send a heartbeat or a comment, unless data waits: then the stream is not silent.

        It is sent after each interval, whatever was sent meanwhile: to note the time of each event
        would cost more.
        """
        self._keep_alives.start(self)
        if not self._paused:
            self._write(self._frame(self._heartbeat or _COMMENT))

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the response if its topic matches."""
        ends = self._open and matches(self._topic)
        if ends:
            self.close_with(closing)
        return int(ends)

    def _resume(self) -> None:
        """Continue with the history."""
        if self._subscription is not None:
            self._subscription.resume()
        if self._watch is not None and not self._paused:
            self._watch.resume()

    def _stop(self) -> None:
        super()._stop()
        self._keep_alives.stop(self)
        # They refer to each other, which would keep what is buffered until garbage is collected.
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()


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
