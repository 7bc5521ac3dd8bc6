"""Many topics over one event stream, or one long poll: each publication names its topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pushd.access.closing import Closing
from pushd.api.subscribe.longpoll import READ_TIMEOUT, LongPoll
from pushd.api.subscribe.sse import EventStream
from pushd.protocols.http.response import JSON_HEADERS, Response
from pushd.protocols.json_format import publication_json, subscription_json, to_json
from pushd.topics.cursor import CursorTracker
from pushd.topics.fanout import Batch, Form
from pushd.topics.hub import Hub
from pushd.topics.presence import Presence, Watch
from pushd.topics.publication import Id, Publication
from pushd.topics.subscription import Subscription

# What separates events, and is in none of them: JSON has no line ends.
_END = b"\n\n"


class ManyEventStream(EventStream):
    """One response that streams many topics.

    The data of each event is the JSON that ``pushd.v1`` sends, and names the topic. The id of each
    is the cursor of the connection, by which a client resumes all topics at once.
    """

    def __init__(self, request: Any, *args: Any, format_json: bool, envelope: bool) -> None:
        super().__init__(request, *args)
        self._many_form = _EVENT_FORMS[envelope, format_json]
        self._topics: dict[str, _TopicEvents] = {}
        # Those that are to be resumed as soon as there is room, in this order: each gets its share.
        self._waiting: dict[_TopicEvents, None] = {}
        self._watches: dict[str, Watch] = {}

    def __len__(self) -> int:
        """Return the number of topics."""
        return len(self._topics)

    def start_all(self, hub: Hub, topics: Mapping[str, Id | None], tracker: CursorTracker) -> None:
        """Send the headers, and subscribe to all topics, each from an id on or from now on.

        :param tracker: keeps the cursor; the topics have been registered with it.
        """
        self._begin()
        if self._heartbeat:
            self._write(self._frame(self._heartbeat))
        for topic in topics:
            self._topics[topic] = _TopicEvents(self, tracker, self._many_form)
        for topic, after in topics.items():
            if (events := self._topics.get(topic)) is not None:
                events.start(hub, topic, after)

    def tell_all_presence(self, presence: Presence, topics: Iterable[str]) -> None:
        """Tell who is present at topics from now on, unless the stream has ended."""
        for topic in topics:
            if self._open and topic in self._topics:
                self._watches[topic] = presence.watch(topic, self)

    # What the subscribers of the topics call

    def send_event(self, data: bytes, count: int) -> None:
        """Send some events."""
        self.traffic.messages_out += count
        self._write(self._frame(data))

    def waits_for(self, events: _TopicEvents, size: int) -> bool:
        """Return whether more than may wait would; the subscriber is then resumed later.

        :param size: bytes of what it has to send.
        """
        waits = self._paused and self._unsent() + size > self._max_buffered
        if waits:
            self._waiting[events] = None
        return waits

    def has_room_for(self, events: _TopicEvents) -> bool:
        """Return whether more history may be sent; if not, the subscriber is resumed later."""
        if self._paused:
            self._waiting[events] = None
        return not self._paused

    # What the connection and the daemon call

    def resumeProducing(self) -> None:
        """Continue with what is left of a large event, then with the history of each topic."""
        super().resumeProducing()
        for events in tuple(self._waiting):
            if self._paused or not self._open:
                return
            del self._waiting[events]
            events.resume()
        for watch in tuple(self._watches.values()):
            if self._paused:
                return
            watch.resume()

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match, and the response with the last one."""
        ended = [topic for topic in self._topics if self._open and matches(topic)]
        for topic in ended:
            events = self._topics.pop(topic, None)
            if events is None:
                break  # The client was too slow for what it was told.
            events.stop()
            self._waiting.pop(events, None)
            watch = self._watches.pop(topic, None)
            if watch is not None:
                watch.cancel()
            value = {"unsubscribed": topic, "reason": closing.reason}
            self.send_event(b"event: unsubscribed\ndata: %b\n\n" % to_json(value).encode(), 1)
        if ended and not self._topics:
            self.close_with(closing)
        return len(ended)

    def _stop(self) -> None:
        super()._stop()
        self._waiting.clear()
        while self._topics:
            self._topics.popitem()[1].stop()
        while self._watches:
            self._watches.popitem()[1].cancel()


class _TopicEvents:
    """The subscriber of one topic of an event stream."""

    __slots__ = (
        "__weakref__",
        "_form",
        "_refused",
        "_stopped",
        "_stream",
        "_subscription",
        "_tracker",
    )

    transport = ManyEventStream.transport

    def __init__(self, stream: ManyEventStream, tracker: CursorTracker, form: Form) -> None:
        self._stream = stream
        self._tracker = tracker
        self._form = form
        self._subscription: Subscription | None = None
        self._stopped = False
        # Bytes of the batch that it did not take when it was last asked.
        self._refused = 0

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Subscribe, unless it has been stopped."""
        subscription = hub.subscribe(topic, self, after, self._tracker)
        if self._stopped:
            subscription.cancel()
        else:
            self._subscription = subscription

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()

    def resume(self) -> None:
        """Go on, as the connection has room again."""
        assert self._subscription is not None  # Else it would not wait for room.
        self._subscription.resume()

    # What the subscription calls

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Send where the topic begins."""
        text = to_json(subscription_json(topic, id, recovered))
        data = f"event: subscribed\nid: {self._tracker.value()}\ndata: {text}\n\n"
        self._stream.send_event(data.encode(), 1)

    def deliver(self, batch: Batch) -> None:
        """Send publications, each with the cursor that includes it."""
        written: list[bytes] = []
        events = batch.render(self._form).split(_END)
        for publication, event in zip(batch, events, strict=False):
            self._tracker.delivered(publication)
            written += (b"id: ", self._tracker.value().encode(), b"\n", event, _END)
        self._stream.send_event(b"".join(written), batch.count)

    def has_room(self) -> bool:
        """Return whether the connection's buffer may take more."""
        return not self._stopped and self._stream.has_room_for(self)

    def keeps_up(self) -> bool:
        """Return whether no more waits than is allowed, with what it did not take."""
        return not self._stream.waits_for(self, self._refused)

    def can_take(self, batch: Batch) -> bool:
        """Return whether no more than is allowed would wait, or nothing waits yet."""
        self._refused = len(batch.render(self._form)) if self._stream.is_paused else 0
        if not self.keeps_up():
            return False
        self._refused = 0
        return True

    @property
    def taken(self) -> int:
        """How many bytes the client has taken, of all topics, counted from any start."""
        return self._stream.taken

    def direct_write(self) -> None:
        """Return None: each connection has cursors of its own."""

    def subscription_lost(self) -> None:
        """End the response, so that the client reconnects with its cursor."""
        self._stream.subscription_lost()


class ManyLongPoll(LongPoll):
    """One poll for many topics: its ``id`` is the cursor, and it tells of each topic apart.

    It is answered when there are publications of any of them, or when its time is up.
    """

    def __init__(self, request: Any, *args: Any, format_json: bool) -> None:
        super().__init__(request, *args)
        self._many_form = _ITEM_FORMS[format_json]
        self._topics: dict[str, _TopicItems] = {}
        # Whether each topic was recovered, once that is known; and those that are resumed.
        self._told: dict[str, bool] = {}
        self._resumed: frozenset[str] = frozenset()
        self._tracker: CursorTracker | None = None
        self._cursor = ""

    def __len__(self) -> int:
        """Return the number of topics."""
        return len(self._topics)

    def start_all(self, hub: Hub, topics: Mapping[str, Id | None], tracker: CursorTracker) -> None:
        """Subscribe to all topics, each from an id on or from now on.

        :param tracker: keeps the cursor; the topics have been registered with it.
        """
        self._tracker = tracker
        self._resumed = frozenset(topic for topic, after in topics.items() if after is not None)
        if self._presence is not None:
            self._presence.start(self._presence_changed)
        self._topics = {topic: _TopicItems(self, tracker, self._many_form) for topic in topics}
        for topic, items in tuple(self._topics.items()):
            if self._open:
                items.start(hub, topic, topics[topic])
        if self._open and self._call is None:
            self._answer_in(self._wait + READ_TIMEOUT)

    # What the subscribers of the topics call

    def begin_topic(self, topic: str, id: Id, recovered: bool) -> None:
        """Note where a topic begins. Once all have begun, wait; if some are missing, answer."""
        self._told[topic] = recovered
        if self._id is not None or len(self._told) < len(self._topics):
            return
        self._id = id
        missing = any(not self._told[resumed] for resumed in self._resumed)
        if self._count:
            self._take_turn()
        else:
            self._answer_in(0 if missing else self._wait)
        self._wake_for_presence()

    def add_items(self, written: bytes, count: int) -> None:
        """Add publications to the response."""
        self._written.append(written)
        self._bytes += len(written)
        self._count += count
        if self._id is not None:
            self._take_turn()

    # What the connection and the daemon call

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """Answer now if one of the topics matches; the next poll is refused."""
        ended = sum(map(matches, self._topics))
        if ended:
            self._answer()
        return ended

    def forget(self) -> None:
        """Cancel everything: the client has its response, or has disconnected."""
        if self._open and self._tracker is not None:
            # As long as the subscriptions are there.
            self._cursor = self._tracker.value()
        super().forget()
        while self._topics:
            self._topics.popitem()[1].stop()

    def _make_response(self, presence: dict[str, Any] | None) -> Response:
        if self._id is None:
            return super()._make_response(None)
        value: dict[str, Any] = {"id": self._cursor, "recovered": self._told}
        if presence is not None:
            value["presence"] = presence
        items = b"".join(self._written)[1:]
        body = b'%b,"publications":[%b]}\n' % (to_json(value)[:-1].encode(), items)
        return Response(200, JSON_HEADERS, body)


class _TopicItems:
    """The subscriber of one topic of a poll."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_form",
        "_poll",
        "_stopped",
        "_subscription",
        "_tracker",
    )

    transport = ManyLongPoll.transport

    def __init__(self, poll: ManyLongPoll, tracker: CursorTracker, form: Form) -> None:
        self._poll = poll
        self._tracker = tracker
        self._form = form
        self._subscription: Subscription | None = None
        self._began = self._stopped = False

    def start(self, hub: Hub, topic: str, after: Id | None) -> None:
        """Subscribe, unless the poll has been answered."""
        subscription = hub.subscribe(topic, self, after, self._tracker)
        if self._stopped:
            subscription.cancel()
        else:
            self._subscription = subscription

    def stop(self) -> None:
        """Add nothing more."""
        self._stopped = True
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.cancel()

    # What the subscription calls

    def subscribed(self, topic: str, id: Id, recovered: bool) -> None:
        """Note where the topic begins."""
        self._began = True
        self._poll.begin_topic(topic, id, recovered)

    def deliver(self, batch: Batch) -> None:
        """Add publications to the response."""
        for publication in batch:
            self._tracker.delivered(publication)
        self._poll.add_items(batch.render(self._form), batch.count)

    def has_room(self) -> bool:
        """Return whether the response may take more. Where the topic begins is always told."""
        return not self._stopped and (self._poll.has_room() or not self._began)

    def keeps_up(self) -> bool:
        """Return whether the response may take more; the next poll gets the rest."""
        return self.has_room()

    def can_take(self, batch: Batch) -> bool:
        """Return whether the response may take more: what is beyond comes in the next one."""
        return self.has_room()

    @property
    def taken(self) -> int:
        """How many bytes the client has taken: it takes the response as a whole, at its end."""
        return 0

    def direct_write(self) -> None:
        """Return None: publications are collected for one response."""

    def subscription_lost(self) -> None:
        """Answer with what has come; the answer to the next poll says what is missing."""
        self._poll.subscription_lost()


def _event(publication: Publication, *, has_name: bool, format_json: bool) -> bytes:
    """Return the event of a publication without its id and without its end."""
    data = publication_json(publication, topic=True, format_json=format_json)
    name = f"event: {publication.event}\n" if has_name and publication.event else ""
    return f"{name}data: {data}\n\n".encode()


def _item(publication: Publication, *, format_json: bool) -> bytes:
    """Return a publication in the list of a response, after a comma."""
    return f",{publication_json(publication, topic=True, format_json=format_json)}".encode()


# How publications are written: whether events have no names, and whether JSON is a value. Each is
# made once, as the same function means the same bytes.
_EVENT_FORMS = {
    (envelope, format_json): partial(_event, has_name=not envelope, format_json=format_json)
    for envelope in (False, True)
    for format_json in (False, True)
}
_ITEM_FORMS = {
    format_json: partial(_item, format_json=format_json) for format_json in (False, True)
}
