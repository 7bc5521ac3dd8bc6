"""The publisher that views use, as ``request.publish``."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.access.permissions import Revoker
from pushd.topics.broker import Broker
from pushd.topics.publication import Id, check_topic
from pushd.topics.scheduled import ScheduledPublication, ScheduledPublications


class Publisher:
    """Publishes to topics, at once or on a schedule."""

    def __init__(
        self,
        broker: Broker,
        scheduled: ScheduledPublications,
        limits: Limits,
        revoker: Revoker,
    ) -> None:
        self._broker = broker
        self._scheduled = scheduled
        self._limits = limits
        self._revoker = revoker

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

    def revoke(self, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; see ``Revoker.revoke``."""
        return self._revoker.revoke(topic, subject)
