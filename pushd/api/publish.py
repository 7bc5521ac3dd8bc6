"""Publishing over HTTP: at once, later, or many in one request."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushd.api.admin import describe, schedule_json
from pushd.api.resource import AsyncResource, PublishContext, allow
from pushd.errors import BadRequest, TooManyScheduled, Unavailable
from pushd.protocols.http.response import Response, json_response
from pushd.topics.broker import Draft
from pushd.topics.publication import Id, check_topic

_log = Logger(namespace="pushd.api")

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
                raise BadRequest("a timed push has no key: list /schedules", "Idempotency-Key")
            return self._schedule(topic, data, times)
        return json_response(200, await _publish(self._door, Draft(topic, data, key)))

    async def _tell(self, topic: str) -> Response:
        return json_response(200, await describe(self._door, topic))

    def _schedule(self, topic: str, data: str | bytes, times: dict[str, Any]) -> Response:
        count = times["count"]
        if count is not None and count != int(count):
            raise BadRequest("count is a whole number", "count")
        if self._door.connections.closing is not None:
            raise BadRequest("the server stops: no timed push outlives it", "schedules", 503)
        try:
            push = self._door.scheduled.add(
                topic,
                data,
                delay=times["delay"] or 0,
                every=times["every"],
                count=None if count is None else int(count),
            )
        except ValueError as error:
            raise BadRequest(error, str(error).split()[0]) from None
        except TooManyScheduled as error:
            raise BadRequest(error, "schedules", 503, {"Retry-After": "60"}) from None
        return json_response(202, schedule_json(push), {"Location": f"/schedules/{push.id}"})


class TopicPublish(AsyncResource):
    """``POST /topics/<topic>`` at the public port, for those whose token allows it.

    :param subject: who publishes; their idempotency keys are no one else's.
    """

    def __init__(self, door: PublishContext, name: str, subject: str) -> None:
        super().__init__(door, name)
        self._subject = subject

    async def answer(self, request: Any) -> Response:
        """Publish now: what comes later is for the control port."""
        topic = read_topic(self._name, "topic")
        for name in ("delay", "every", "count"):
            if name.encode() in request.args:
                raise BadRequest("a timed push is made at the control port", name)
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
        drafts = read_drafts(request.content.read(), self._door.limits.max_message)
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


async def _publish(door: PublishContext, draft: Draft) -> dict[str, Any]:
    return _tell(door, draft, await door.broker.publish(draft.topic, draft.data, draft.key))


def _tell(door: PublishContext, draft: Draft, id: Id) -> dict[str, Any]:
    """The answer to a publication: its id, and how many subscribers the topic has now."""
    return {"id": str(id), "subscribers": door.hub.count(draft.topic)}


# What an Idempotency-Key may be: what fits into a header, and is not made to fill memory.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

# How many publications one request may have.
_MAX_BATCH = 1000


def read_topic(name: object, where: str) -> str:
    """The name of a topic."""
    if not isinstance(name, str):
        raise BadRequest("a topic is text", where)
    try:
        return check_topic(name)
    except ValueError as error:
        raise BadRequest(error, where) from None


def read_key(given: object, where: str) -> str | None:
    """An idempotency key, or None where there is none."""
    if given is None:
        return None
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        raise BadRequest("a key is 1 to 200 printable ASCII characters", where)
    return given


def read_data(request: Any) -> str | bytes:
    """The data of a publication: text, unless the request says that it is bytes."""
    data: bytes = request.content.read()
    kind = (read_header(request, b"content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        error = "the body is not UTF-8; bytes are sent as application/octet-stream"
        raise BadRequest(error, "body") from None


def read_number(request: Any, name: str) -> float | None:
    """A number of the query, or None where it is not there."""
    values = request.args.get(name.encode())
    if not values:
        return None
    text = values[-1].decode("latin-1")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        raise BadRequest(f"{name} is a number from 0 on, of nine digits at most", name)
    return float(text)


def read_header(request: Any, name: bytes) -> str | None:
    """A header as text, or None where it is not there."""
    value = request.getHeader(name)
    return None if value is None else str(value, "latin-1")


def read_drafts(body: bytes, max_message: int) -> list[Draft]:
    """What a batch has in it, all of it found to be in order."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}", "body") from None
    publications = asked.get("publications") if isinstance(asked, dict) else None
    if not isinstance(publications, list):
        raise BadRequest('the body is {"publications": […]}', "body")
    if len(publications) > _MAX_BATCH:
        raise BadRequest(f"a request has {_MAX_BATCH} publications at most", "publications", 413)
    drafts = []
    for place, one in enumerate(publications):
        drafts.append(draft := _draft(one, f"publications[{place}]"))
        size = len(draft.data.encode() if isinstance(draft.data, str) else draft.data)
        if size > max_message:
            line = f"a publication of {size} bytes: --max-message is {max_message}"
            raise BadRequest(line, f"publications[{place}]", 413)
    return drafts


def _draft(one: object, where: str) -> Draft:
    if not isinstance(one, dict):
        raise BadRequest("a publication is an object", where)
    unknown = one.keys() - {"topic", "data", "base64", "idempotency_key"}
    if unknown:
        # Escaped: a key may be what no answer could hold.
        raise BadRequest("unknown key", f"{where}.{ascii(min(unknown))[1:-1][:100]}")
    topic = read_topic(one.get("topic"), f"{where}.topic")
    if ("data" in one) == ("base64" in one):
        raise BadRequest("a publication has either data or base64", where)
    key = read_key(one.get("idempotency_key"), f"{where}.idempotency_key")
    if "data" in one:
        if not isinstance(one["data"], str) or not _is_unicode(one["data"]):
            raise BadRequest("data is text", f"{where}.data")
        return Draft(topic, one["data"], key)
    try:
        return Draft(topic, b64decode(one["base64"], validate=True), key)
    except (TypeError, ValueError, binascii.Error):
        raise BadRequest("base64 is bytes in base64", f"{where}.base64") from None


def _is_unicode(text: str) -> bool:
    """Whether text can be sent: JSON can spell half a surrogate pair, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
