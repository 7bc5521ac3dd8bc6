"""A topic that has subscribers on this node: puts what comes from Redis in order, without gaps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from pushd.topics.publication import Id, Publication, Replay, size_of
from pushd.topics.redis.waiters import Waiters

# How many publications, and how many bytes of them, are buffered while a topic catches up. What
# does not fit is read from the history.
_MAX_BUFFERED = 1000
_MAX_BUFFERED_BYTES = 4 << 20


class FollowedTopic:
    """The position up to which a topic has been delivered, and what cannot be delivered yet.

    A topic is *live* if everything that was published, as far as this node can know, has been
    delivered. Then messages from the channel are delivered as long as there is no gap. Otherwise
    the history is read, and messages are buffered meanwhile. The position decides what is next, so
    that nothing is left out or delivered twice.

    :param deliver: called with each publication, in order.
    :param on_gap: called with the topic and an id if everything up to that id is lost.
    :param waiters: the coroutines that wait until the topic is ``ready``.
    """

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "_deliver",
        "_dropped",
        "_on_gap",
        "live",
        "position",
        "read",
        "subscribed",
        "topic",
        "waiters",
    )

    def __init__(
        self,
        topic: str,
        deliver: Callable[[Publication], None],
        on_gap: Callable[[str, Id], None],
        waiters: Waiters,
    ) -> None:
        self.topic = topic
        self._deliver = deliver
        self._on_gap = on_gap
        #: The id of the last publication delivered; None before the first read.
        self.position: Id | None = None
        self.live = False
        #: The highest sequence that may have been read in this session, by its subscribers or here.
        self.read = 0
        #: True if Redis has confirmed the subscription to the topic's channel.
        self.subscribed = False
        self.waiters = waiters
        # With each publication, the bytes that were counted for it.
        self._buffer: deque[tuple[Publication, int]] = deque()
        self._buffered_bytes = 0
        # True if a publication did not fit into the buffer.
        self._dropped = False

    @property
    def ready(self) -> bool:
        """Whether subscribers may read the history: all that comes after it will be delivered."""
        return self.subscribed and self.position is not None

    @property
    def lags(self) -> bool:
        """Whether something may have been published to its subscribers that is not delivered."""
        return self.position is not None and not self.live

    def receive(self, publication: Publication) -> bool:
        """Take a publication from the channel. Returns False if the history must be read now."""
        if not self.live:
            self._keep(publication)
        elif not self._deliver_next(publication):
            self.live = False
            self._keep(publication)
            return False
        return True

    def catch_up(self, replay: Replay) -> None:
        """Take what was read from the history. If that was all, the topic is live."""
        self.note_read(replay)
        if self.position is None:
            # Subscribers read the history themselves; they need what comes from here on.
            self.position = replay.last
        elif not replay.recovered:
            self.position = replay.last
            self._on_gap(self.topic, replay.last)
        for publication in replay.publications:
            self._deliver_next(publication)
        if self.position == replay.last or self._has_passed(replay.last):
            self.live = self._deliver_buffer()

    def note_read(self, replay: Replay) -> None:
        """Note how far the history was read."""
        self.read = max(self.read, replay.sequence)

    def disconnected(self) -> None:
        """Take note that nothing comes through the channel any more."""
        self.read = 0
        self.live = self.subscribed = self._dropped = False
        self._buffer.clear()
        self._buffered_bytes = 0

    def _deliver_next(self, publication: Publication) -> bool:
        """Deliver a publication if it is the next. Returns False if something is missing before it.

        One that was delivered before is ignored.
        """
        assert self.position is not None
        if publication.id.epoch != self.position.epoch:
            return False
        distance = publication.id.offset - self.position.offset
        if distance == 1:
            self.position = publication.id
            self._deliver(publication)
        return distance <= 1

    def _has_passed(self, last: Id) -> bool:
        assert self.position is not None
        return self.position.epoch == last.epoch and self.position.offset > last.offset

    def _deliver_buffer(self) -> bool:
        """Deliver what is buffered. Returns False if something is missing."""
        while self._buffer:
            publication, size = self._buffer.popleft()
            self._buffered_bytes -= size
            if not self._deliver_next(publication):
                return False
        dropped, self._dropped = self._dropped, False
        return not dropped

    def _keep(self, publication: Publication) -> None:
        if len(self._buffer) >= _MAX_BUFFERED or self._buffered_bytes >= _MAX_BUFFERED_BYTES:
            self._dropped = True
        else:
            size = size_of(publication.data)
            self._buffer.append((publication, size))
            self._buffered_bytes += size
