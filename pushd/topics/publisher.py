"""What a view publishes with, as ``request.publish``."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.topics.broker import Broker
from pushd.topics.publication import Id, check_topic
from pushd.topics.scheduled import ScheduledPublication, ScheduledPublications


class Publisher:
    """Publishes to topics, now or later."""

    def __init__(self, broker: Broker, timed: ScheduledPublications, limits: Limits) -> None:
        self._broker = broker
        self._timed = timed
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
        """Publish now; the Deferred fires with the id. With a time, get a handle to cancel it.

        Raises ValueError for what is no topic or no time or too much data, TypeError for what is
        no data, and TooMany when there are as many timed pushes as there may be.
        """
        check_topic(topic)
        if not isinstance(data, str | bytes):
            raise TypeError(f"a publication is str or bytes, not {type(data).__name__}")
        # Text is encoded to see that it is Unicode: no lone half of a pair.
        length = len(data.encode() if isinstance(data, str) else data)
        most = self._limits.max_message
        if length > most:
            raise ValueError(f"a publication of {length} bytes: --max-message is {most}")
        if delay is None and every is None and count is None:
            return self._broker.publish(topic, data)
        return self._timed.add(topic, data, delay=delay or 0, every=every, count=count)
