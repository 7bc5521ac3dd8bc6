"""The publisher that views use: ``request.publish``, ``last_id`` and ``presence``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred

from pushd.access.limits import Limits
from pushd.access.permissions import Revoker
from pushd.topics.attendance import Attendances
from pushd.topics.broker import Broker, Draft
from pushd.topics.json_data import encode_json
from pushd.topics.presence import PresenceList
from pushd.topics.publication import Id, check_event, check_topic
from pushd.topics.rules import Rules
from pushd.topics.scheduled import ScheduledPublication, ScheduledPublications
from pushd.topics.timestamp import seconds_of


class Publisher:
    """Publishes to topics, at once or on a schedule, and tells their last ids and presence."""

    def __init__(
        self,
        broker: Broker,
        scheduled: ScheduledPublications,
        limits: Limits,
        attendances: Attendances,
        rules: Rules,
        revoker: Revoker,
    ) -> None:
        self._broker = broker
        self._attendances = attendances
        self._scheduled = scheduled
        self._limits = limits
        self._revoker = revoker
        self._rules = rules

    def publish(
        self,
        topic: str,
        data: str | bytes | dict[str, Any] | list[Any],
        *,
        event: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        every: float | None = None,
        count: int | None = None,
    ) -> Deferred[Id] | ScheduledPublication:
        """Publish now; the Deferred fires with the id. With times, return a handle to cancel it.

        A dict or list is published as JSON.

        :param event: the name of its event; None for the default.
        :param delay: seconds until the first publication.
        :param at: its time, with a time zone, in place of the delay.
        :param every: seconds between publications; ``count`` is their number.

        Raises ValueError if the topic, the event or a time is invalid or the data too long,
        TypeError if the data is of another type, and TooManyScheduled at the limit of schedules;
        if they are in Redis, the handle's ``kept()`` fails with that.
        """
        check_topic(topic)
        if event is not None:
            check_event(event)
        is_json = isinstance(data, dict | list)
        if isinstance(data, dict | list):
            data = encode_json(data)
        if not isinstance(data, str | bytes):
            raise TypeError(
                f"publication must be str, bytes, dict or list; got {type(data).__name__}"
            )
        # Encoding also finds lone surrogates, which UTF-8 does not allow.
        length = len(data.encode() if isinstance(data, str) else data)
        rule = self._rules.find(topic)
        limit = rule.message_limit(self._limits.max_message)
        if length > limit:
            source = (
                f"max-message of {rule.match}" if limit == rule.max_message else "--max-message"
            )
            raise ValueError(f"publication must be at most {limit} bytes ({source}); got {length}")
        if delay is None and at is None and every is None and count is None:
            return self._broker.publish(topic, data, event=event, is_json=is_json)
        draft = Draft(topic, data, event=event, is_json=is_json)
        time = None if at is None else seconds_of(at)
        return self._scheduled.add(draft, delay=delay, at=time, every=every, count=count)

    def last_id(self, topic: str) -> Deferred[str]:
        """Give the id after which a subscriber that comes later misses nothing.

        It is that of the newest publication, or the one before the first, and is kept for
        ``--history-ttl``. Raises ValueError if the topic is invalid; the Deferred fails with
        Unavailable if the broker cannot be reached.
        """
        replay = self._broker.replay(check_topic(topic), None, 0)
        return replay.addCallback(lambda found: str(found.last))

    def presence(self, topic: str) -> Deferred[PresenceList]:
        """Give who is present at a topic; see ``Attendances.describe``."""
        return self._attendances.describe(topic)

    def revoke(self, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; see ``Revoker.revoke``."""
        return self._revoker.revoke(topic, subject)
