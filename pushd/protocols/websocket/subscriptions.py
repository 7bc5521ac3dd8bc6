"""Many topics over one WebSocket: the subscriptions of a connection that chooses its topics."""

from __future__ import annotations

from collections.abc import Iterator

from pushd.protocols.websocket.subscriber import JsonWebSocketSubscriber, Socket, json_frames
from pushd.topics.fanout import DirectWrite
from pushd.topics.hub import Hub
from pushd.topics.publication import Id
from pushd.topics.subscription import Subscription


class TopicSubscriber(JsonWebSocketSubscriber):
    """Delivers one topic over a WebSocket that has several: each publication names its topic.

    :param grouped: where it adds itself when it may join a fan-out group.
    :param format_json: whether publications in JSON are sent as values, not as text.
    """

    __slots__ = ("_grouped",)

    def __init__(
        self, socket: Socket, grouped: dict[TopicSubscriber, None], *, format_json: bool
    ) -> None:
        super().__init__(socket)
        self._form = json_frames(socket.wire.window_bits, topic=True, format_json=format_json)
        self._grouped = grouped

    @property
    def subscription(self) -> Subscription | None:
        """Its subscription, from the start to the end."""
        return self._subscription

    def direct_write(self) -> DirectWrite | None:
        """Return how to write directly to the socket if nothing is buffered before it."""
        direct = super().direct_write()
        if direct is not None:
            self._grouped[self] = None
        return direct


class WebSocketSubscriptions:
    """The topics of one WebSocket, each of which can come and go at any time.

    What happens to the whole connection costs as much as there is to do for it, not as much as it
    has topics: only those in fan-out groups leave them before data is buffered, and only those with
    pending publications catch up.
    """

    __slots__ = ("_hub", "_socket", "_topics", "grouped")

    def __init__(self, socket: Socket, hub: Hub) -> None:
        self._socket = socket
        self._hub = hub
        self._topics: dict[str, TopicSubscriber] = {}
        #: Those that are in a group, and some that have left theirs.
        self.grouped: dict[TopicSubscriber, None] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def __contains__(self, topic: str) -> bool:
        return topic in self._topics

    def __iter__(self) -> Iterator[str]:
        """Iterate over a copy of the topics."""
        return iter(tuple(self._topics))

    def subscribe(
        self, topic: str, after: Id | None, *, format_json: bool = False
    ) -> TopicSubscriber:
        """Send what is published to a topic that has no subscription, since an id or from now on.

        :param format_json: whether publications in JSON are sent as values, not as text.
        """
        subscriber = TopicSubscriber(self._socket, self.grouped, format_json=format_json)
        self.start(topic, subscriber, after)
        return subscriber

    def start(self, topic: str, subscriber: TopicSubscriber, after: Id | None) -> None:
        """Do the same with a subscriber of another kind, which was made with ``grouped``."""
        self._topics[topic] = subscriber
        subscriber.start(self._hub, topic, after)

    def unsubscribe(self, topic: str) -> None:
        """Send no more publications of a topic; do nothing if it has no subscription."""
        subscriber = self._topics.pop(topic, None)
        if subscriber is not None:
            self.grouped.pop(subscriber, None)
            self._socket.send_queue.discard(subscriber)
            subscriber.stop()

    # What the WebSocket calls

    def catch_up(self) -> None:
        """Send what was published before this moment."""
        self._hub.catch_up_all(self._find)

    def leave_group(self) -> None:
        """Stop direct writes: data is about to be buffered, and what follows must go behind it."""
        while self.grouped:
            self.grouped.popitem()[0].leave_group()

    def cancel(self) -> None:
        """Send nothing more."""
        for subscriber in self._topics.values():
            subscriber.cancel()

    def stop(self) -> None:
        """Send nothing more, and forget the topics."""
        self.grouped.clear()
        while self._topics:
            self._topics.popitem()[1].stop()

    def resume(self) -> None:
        """Do nothing: each subscriber is resumed by itself."""

    def _find(self, topic: str) -> Subscription | None:
        subscriber = self._topics.get(topic)
        return None if subscriber is None else subscriber.subscription
