"""The publisher that views use, as ``request.publish`` and ``request.last_id``."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.topics.broker import Broker
from pushd.topics.publication import Id, check_topic
from pushd.topics.scheduled import ScheduledPublication, ScheduledPublications


class Publisher:
    """Publishes to topics, at once or on a schedule, and tells their last ids."""

    def __init__(self, broker: Broker, scheduled: ScheduledPublications, limits: Limits) -> None:
        self._broker = broker
        self._scheduled = scheduled
        self._limits = limits

    def publish(
        self,
        topic: str,
        data: str | bytes,
        *,
        delay: float | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Deferred[Id] | ScheduledPublication:
        """Publish now; the Deferred fires with the id. With times, return a handle to cancel it.

        :param delay: seconds until the first publication.
        :param every: seconds between publications; ``count`` is their number.

        Raises ValueError if the topic or a time is invalid or the data too long, TypeError if the
        data is neither str nor bytes, and TooManyScheduled at the limit of schedules.
        """
        check_topic(topic)
        if not isinstance(data, str | bytes):
            raise TypeError(f"publication must be str or bytes; got {type(data).__name__}")
        # Encoding also finds lone surrogates, which UTF-8 does not allow.
        length = len(data.encode() if isinstance(data, str) else data)
        limit = self._limits.max_message
        if length > limit:
            raise ValueError(
                f"publication must be at most {limit} bytes (--max-message); got {length}"
            )
        if delay is None and every is None and count is None:
            return self._broker.publish(topic, data)
        return self._scheduled.add(topic, data, delay=delay or 0, every=every, count=count)

    def last_id(self, topic: str) -> Deferred[str]:
        """Give the id after which a subscriber that comes later misses nothing.

        It is that of the newest publication, or the one before the first, and is kept for
        ``--history-ttl``. Raises ValueError if the topic is invalid; the Deferred fails with
        Unavailable if the broker cannot be reached.
        """
        replay = self._broker.replay(check_topic(topic), None, 0)
        return replay.addCallback(lambda found: str(found.last))
