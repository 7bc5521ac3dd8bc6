"""Publishing over HTTP."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections import Counter
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.answers import json_refusal, json_response, write_response
from pushd.broker import Broker, Draft, Unavailable
from pushd.connections import Connections
from pushd.hub import Hub, transport_of
from pushd.limits import Bounds
from pushd.messages import Id, check_topic
from pushd.receipts import Receipts
from pushd.timed import TimedPush, TimedPushes, TooMany
from pushd.views import Response

_log = Logger()

# What an Idempotency-Key may be: what fits into a header, and is not made to fill memory.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

# How many publications one request may have, and how many topics one answer lists.
_MAX_BATCH = 1000
_MAX_LIST = 1000

# How many bytes the body of a batch may have at least, whatever --max-message is.
_BATCH_BODY = 16 << 20


class Wrong(Exception):
    """A request that can't be carried out: what is wrong with it, and where."""

    def __init__(
        self, error: object, where: str, status: int = 400, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(str(error))
        self.where = where
        self.status = status
        self.headers = headers


@dataclass(kw_only=True)
class PublishDoor:
    """What it takes to publish, and to tell operators what is there."""

    clock: IReactorTime
    broker: Broker
    hub: Hub
    timed: TimedPushes
    connections: Connections
    receipts: Receipts
    bounds: Bounds


class AsyncResource(Resource):
    """A resource whose answer is a Response that a coroutine makes."""

    isLeaf = True

    def __init__(self, door: PublishDoor, name: str = "") -> None:
        super().__init__()
        self._door = door
        self._name = name

    def render(self, request: Any) -> int:
        """Answer, unless the client leaves before."""
        answering = Deferred.fromCoroutine(self._try(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addCallback(lambda response: write_response(request, response))
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def answer(self, request: Any) -> Response:
        """Make the answer; Wrong says why there is none."""
        raise NotImplementedError

    async def _try(self, request: Any) -> Response:
        try:
            return await self.answer(request)
        except Wrong as wrong:
            return json_refusal(wrong.status, str(wrong), wrong.where, wrong.headers)
        except Unavailable as error:
            headers = {"Retry-After": f"{error.retry_after}"}
            return json_refusal(503, self.explain(error), "broker", headers)

    def explain(self, error: Unavailable) -> str:
        """What to tell of a broker that is away."""
        return str(error)

    def _failed(self, failure: Failure, request: Any) -> None:
        if not request._disconnected:
            request.processingFailed(failure)


class TopicControl(AsyncResource):
    """``/topics/<topic>``: POST publishes, now or at its time; GET tells what is there."""

    async def answer(self, request: Any) -> Response:
        """Publish or tell."""
        topic = _topic(self._name, "topic")
        if request.method == b"GET":
            return await self._tell(topic)
        allow(request, "GET", "POST")
        data = _body(request)
        key = _key(_header(request, b"idempotency-key"), "Idempotency-Key")
        times = {name: _number(request, name) for name in ("delay", "every", "count")}
        if any(value is not None for value in times.values()):
            if key is not None:
                raise Wrong("a timed push has no key: list /schedules", "Idempotency-Key")
            return self._schedule(topic, data, times)
        return json_response(200, await _publish(self._door, Draft(topic, data, key)))

    async def _tell(self, topic: str) -> Response:
        return json_response(200, await _describe(self._door, topic))

    def _schedule(self, topic: str, data: str | bytes, times: dict[str, Any]) -> Response:
        count = times["count"]
        if count is not None and count != int(count):
            raise Wrong("count is a whole number", "count")
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
        topic = _topic(self._name, "topic")
        for name in ("delay", "every", "count"):
            if name.encode() in request.args:
                raise Wrong("a timed push is made at the control door", name)
        key = _key(_header(request, b"idempotency-key"), "Idempotency-Key")
        if key is not None:
            # No key has a blank, so this is nobody else's whatever the subject is.
            key = f"{self._subject} {key}"
        return json_response(200, await _publish(self._door, Draft(topic, _body(request), key)))

    def explain(self, error: Unavailable) -> str:
        """Tell strangers that it is away, and the log where and why."""
        _log.warn(
            "a publication to {topic} was not taken: {error}",
            event="not_published",
            topic=self._name,
            error=str(error),
        )
        return "this can't be published just now: repeat it, with an Idempotency-Key, later"


class TopicList(AsyncResource):
    """``/topics``: what is there."""

    async def answer(self, request: Any) -> Response:
        """List the topics that somebody listens to, or that are remembered."""
        allow(request, "GET")
        names = {*self._door.hub.topics(), *await self._door.broker.names()}
        first = nsmallest(_MAX_LIST, names)
        topics = [await _describe(self._door, name) for name in first]
        return json_response(200, {"topics": topics, "more": len(names) > _MAX_LIST})


class Batch(AsyncResource):
    """``/publish``: many publications at once, all or none."""

    async def answer(self, request: Any) -> Response:
        """Publish, once all are found to be in order."""
        allow(request, "POST")
        drafts = _drafts(request.content.read(), self._door.bounds.max_message)
        # All or none: that the client leaves in the midst of it ends only its answer.
        done: Deferred[list[Id]] = Deferred()
        self._door.broker.publish_all(drafts).chainDeferred(done)
        published = [
            _tell(self._door, draft, id) for draft, id in zip(drafts, await done, strict=True)
        ]
        return json_response(200, {"published": published})


def allow(request: Any, *methods: str) -> None:
    """Raise Wrong for a request that is made with another method."""
    if request.method.decode("latin-1") not in methods:
        allowed = ", ".join(methods)
        raise Wrong(f"this address takes {allowed}", "method", 405, {"Allow": allowed})


def schedule_json(push: TimedPush) -> dict[str, Any]:
    """A timed push as JSON has it."""
    return {
        "schedule": push.id,
        "topic": push.topic,
        "count": push.count,
        "done": push.done,
        "every": push.every,
    }


async def _publish(door: PublishDoor, draft: Draft) -> dict[str, Any]:
    told = None if draft.key is None else door.receipts.find(draft.topic, draft.key)
    if told is not None:
        return told
    return _tell(door, draft, await door.broker.publish(draft.topic, draft.data, draft.key))


def _tell(door: PublishDoor, draft: Draft, id: Id) -> dict[str, Any]:
    """The answer to a publication; for a key that was seen, the one of then."""
    answer = {"id": str(id), "subscribers": door.hub.count(draft.topic)}
    return answer if draft.key is None else door.receipts.keep(draft.topic, draft.key, answer)


async def _describe(door: PublishDoor, topic: str) -> dict[str, Any]:
    described: tuple[Id | None, int] = await door.broker.describe(topic)
    last, kept = described
    transports = Counter(map(transport_of, door.hub.subscribers(topic)))
    return {
        "topic": topic,
        "id": None if last is None else str(last),
        "history": kept,
        "subscribers": dict(transports),
    }


def batch_body(max_message: int) -> int:
    """How many bytes the body of a batch may have: many publications, or one in base64."""
    return max(_BATCH_BODY, 2 * max_message)


def _drafts(body: bytes, max_message: int) -> list[Draft]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"the body is no JSON: {error}", "body") from None
    publications = asked.get("publications") if isinstance(asked, dict) else None
    if not isinstance(publications, list):
        raise Wrong('the body is {"publications": […]}', "body")
    if len(publications) > _MAX_BATCH:
        raise Wrong(f"a request has {_MAX_BATCH} publications at most", "publications", 413)
    drafts = []
    for place, one in enumerate(publications):
        drafts.append(draft := _draft(one, f"publications[{place}]"))
        size = len(draft.data.encode() if isinstance(draft.data, str) else draft.data)
        if size > max_message:
            line = f"a publication of {size} bytes: --max-message is {max_message}"
            raise Wrong(line, f"publications[{place}]", 413)
    return drafts


def _draft(one: object, where: str) -> Draft:
    if not isinstance(one, dict):
        raise Wrong("a publication is an object", where)
    unknown = one.keys() - {"topic", "data", "base64", "idempotency_key"}
    if unknown:
        # Escaped: a key may be what no answer could hold.
        raise Wrong("unknown key", f"{where}.{ascii(min(unknown))[1:-1][:100]}")
    topic = _topic(one.get("topic"), f"{where}.topic")
    if ("data" in one) == ("base64" in one):
        raise Wrong("a publication has either data or base64", where)
    key = _key(one.get("idempotency_key"), f"{where}.idempotency_key")
    if "data" in one:
        if not isinstance(one["data"], str) or not _is_unicode(one["data"]):
            raise Wrong("data is text", f"{where}.data")
        return Draft(topic, one["data"], key)
    try:
        return Draft(topic, b64decode(one["base64"], validate=True), key)
    except (TypeError, ValueError, binascii.Error):
        raise Wrong("base64 is bytes in base64", f"{where}.base64") from None


def _topic(name: object, where: str) -> str:
    if not isinstance(name, str):
        raise Wrong("a topic is text", where)
    try:
        return check_topic(name)
    except ValueError as error:
        raise Wrong(error, where) from None


def _key(given: object, where: str) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        raise Wrong("a key is 1 to 200 printable ASCII characters", where)
    return given


def _body(request: Any) -> str | bytes:
    data: bytes = request.content.read()
    kind = (_header(request, b"content-type") or "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        error = "the body is not UTF-8; bytes are sent as application/octet-stream"
        raise Wrong(error, "body") from None


def _is_unicode(text: str) -> bool:
    """Whether text can be sent: JSON can spell half a surrogate pair, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(request: Any, name: str) -> float | None:
    values = request.args.get(name.encode())
    if not values:
        return None
    text = values[-1].decode("latin-1")
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        raise Wrong(f"{name} is a number", name)
    return float(text)


def _header(request: Any, name: bytes) -> str | None:
    value = request.getHeader(name)
    return None if value is None else str(value, "latin-1")
