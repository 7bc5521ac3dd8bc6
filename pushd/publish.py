"""Publishing over HTTP: now, at its time, or many at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushd.async_resource import AsyncResource, PublishDoor, Wrong, allow
from pushd.drafts import read_data, read_drafts, read_header, read_key, read_number, read_topic
from pushd.protocols.http.response import Response, json_response
from pushd.schedules import schedule_json
from pushd.topic_list import describe
from pushd.topics.broker import Draft, Unavailable
from pushd.topics.publication import Id
from pushd.topics.scheduled import TooMany

_log = Logger()

# How many bytes the body of a batch may have at least, whatever --max-message is.
_BATCH_BODY = 16 << 20


class TopicControl(AsyncResource):
    """``/topics/<topic>``: POST publishes, now or at its time; GET tells what is there."""

    async def answer(self, request: Any) -> Response:
        """Publish or tell."""
        topic = read_topic(self._name, "topic")
        if request.method == b"GET":
            return await self._tell(topic)
        allow(request, "GET", "POST")
        data = read_data(request)
        key = read_key(read_header(request, b"idempotency-key"), "Idempotency-Key")
        times = {name: read_number(request, name) for name in ("delay", "every", "count")}
        if any(value is not None for value in times.values()):
            if key is not None:
                raise Wrong("a timed push has no key: list /schedules", "Idempotency-Key")
            return self._schedule(topic, data, times)
        return json_response(200, await _publish(self._door, Draft(topic, data, key)))

    async def _tell(self, topic: str) -> Response:
        return json_response(200, await describe(self._door, topic))

    def _schedule(self, topic: str, data: str | bytes, times: dict[str, Any]) -> Response:
        count = times["count"]
        if count is not None and count != int(count):
            raise Wrong("count is a whole number", "count")
        if self._door.connections.closing is not None:
            raise Wrong("the server stops: no timed push outlives it", "schedules", 503)
        try:
            push = self._door.timed.add(
                topic,
                data,
                delay=times["delay"] or 0,
                every=times["every"],
                count=None if count is None else int(count),
            )
        except ValueError as error:
            raise Wrong(error, str(error).split()[0]) from None
        except TooMany as error:
            raise Wrong(error, "schedules", 503, {"Retry-After": "60"}) from None
        return json_response(202, schedule_json(push), {"Location": f"/schedules/{push.id}"})


class TopicPublish(AsyncResource):
    """``POST /topics/<topic>`` at the public door, for those whose token allows it.

    :param subject: who publishes; their idempotency keys are no one else's.
    """

    def __init__(self, door: PublishDoor, name: str, subject: str) -> None:
        super().__init__(door, name)
        self._subject = subject

    async def answer(self, request: Any) -> Response:
        """Publish now: what comes later is for the control door."""
        topic = read_topic(self._name, "topic")
        for name in ("delay", "every", "count"):
            if name.encode() in request.args:
                raise Wrong("a timed push is made at the control door", name)
        key = read_key(read_header(request, b"idempotency-key"), "Idempotency-Key")
        if key is not None:
            # No key has a blank, so this is nobody else's whatever the subject is.
            key = f"{self._subject} {key}"
        return json_response(200, await _publish(self._door, Draft(topic, read_data(request), key)))

    def explain(self, error: Unavailable) -> str:
        """Tell strangers that it is away, and the log where and why."""
        _log.warn(
            "a publication to {topic} was not taken: {error}",
            event="not_published",
            topic=self._name,
            error=str(error),
        )
        return "this can't be published just now: repeat it, with an Idempotency-Key, later"


class Batch(AsyncResource):
    """``/publish``: many publications at once, all or none."""

    async def answer(self, request: Any) -> Response:
        """Publish, once all are found to be in order."""
        allow(request, "POST")
        drafts = read_drafts(request.content.read(), self._door.bounds.max_message)
        # All or none: that the client leaves in the midst of it ends only its answer.
        done: Deferred[list[Id]] = Deferred()
        self._door.broker.publish_all(drafts).chainDeferred(done)
        published = [
            _tell(self._door, draft, id) for draft, id in zip(drafts, await done, strict=True)
        ]
        return json_response(200, {"published": published})


def batch_body(max_message: int) -> int:
    """How many bytes the body of a batch may have: many publications, or one in base64."""
    return max(_BATCH_BODY, 2 * max_message)


async def _publish(door: PublishDoor, draft: Draft) -> dict[str, Any]:
    told = None if draft.key is None else door.receipts.find(draft.topic, draft.key)
    if told is not None:
        return told
    return _tell(door, draft, await door.broker.publish(draft.topic, draft.data, draft.key))


def _tell(door: PublishDoor, draft: Draft, id: Id) -> dict[str, Any]:
    """The answer to a publication; for a key that was seen, the one of then."""
    answer = {"id": str(id), "subscribers": door.hub.count(draft.topic)}
    return answer if draft.key is None else door.receipts.keep(draft.topic, draft.key, answer)
