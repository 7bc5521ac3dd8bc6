"""What a view publishes with, as ``request.publish``."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.broker import Broker
from pushd.messages import Id, check_topic
from pushd.timed import TimedPush, TimedPushes


class Publisher:
    """Publishes to topics, now or later."""

    def __init__(self, broker: Broker, timed: TimedPushes) -> None:
        self._broker = broker
        self._timed = timed

    def publish(
        self,
        topic: str,
        data: str | bytes,
        *,
        delay: float | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Deferred[Id] | TimedPush:
        """Publish now; the Deferred fires with the id. With a time, get a handle to cancel it.

        Raises ValueError for what is no topic or no time, and TypeError for what is no data.
        """
        check_topic(topic)
        if isinstance(data, str):
            data.encode()  # Raises for what is no Unicode text: a lone half of a pair.
        elif not isinstance(data, bytes):
            raise TypeError(f"a publication is str or bytes, not {type(data).__name__}")
        if delay is None and every is None and count is None:
            return self._broker.publish(topic, data)
        return self._timed.add(topic, data, delay=delay or 0, every=every, count=count)
