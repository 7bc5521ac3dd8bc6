"""Publishing over HTTP: at once, at a later time, or many publications in one request."""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.api.resource import (
    AsyncResource,
    DaemonState,
    parse_number,
    read_argument,
    refuse,
    refuse_unavailable,
    require_known,
)
from pushd.errors import BadRequest, TooManyScheduled, Unavailable
from pushd.protocols.http.headers import RequestHeaders
from pushd.protocols.http.response import JSON_HEADERS, Response, json_response, write_response
from pushd.protocols.json_format import is_encodable
from pushd.topics.broker import Draft
from pushd.topics.json_data import check_json, encode_json
from pushd.topics.publication import Id, Replay, check_event, check_topic
from pushd.topics.scheduled import ScheduleState
from pushd.topics.timestamp import format_timestamp, parse_timestamp

# Lower bound of the limit on the body of a batch, in bytes, for a small --max-message.
_BATCH_BODY = 16 << 20

# Bytes of a message with one publication beside its data, at most: its topic and its keys.
_LINE = 1024

# Publications in one batch, at most.
_MAX_BATCH = 1000

# The most commas and colons, and the most strings, that are parsed: a batch has up to ten of each
# for a publication, beside its JSON. Parsed, a body of as many as fit would take thirty times its
# size; as many as this take 30 MB.
_MAX_MARKS = 200_000
_MARKS = (b",", b":")

# Members of a publication in a batch with its data, of which it has one.
_DATA = ("data", "base64", "json")

# Query arguments that schedule a publication.
_NUMBERS = ("delay", "every", "count")
_SCHEDULE = ("at", *_NUMBERS)

# An idempotency key: short and valid in a header. As it has no blank, one can separate the hash of
# a subject from it.
_KEY = re.compile(r"[\x21-\x7e]{1,200}")

_log = Logger(namespace="pushd.api")


class ControlTopicResource(AsyncResource):
    """``/topics/<topic>`` at the control port: POST publishes or schedules, GET describes."""

    methods = ("GET", "POST")

    async def answer(self, request: Any) -> Response:
        """Publish, schedule or describe."""
        topic = read_topic(self._name, "topic")
        if request.method != b"POST":
            require_known(request)
            return json_response(200, await topic_json(self._state, topic))
        require_known(request, *_SCHEDULE, "event")
        draft = _read_request(self._state, request, topic)
        times = {name: read_number(request, name) for name in _NUMBERS}
        times["at"] = _read_time(request, "at")
        if any(value is not None for value in times.values()):
            if draft.key is not None:
                error = "Idempotency-Key cannot be combined with delay, at, every or count"
                raise BadRequest(f"{error}; see /schedules", "Idempotency-Key")
            return await self._schedule(draft, times)
        return await _publish(self._state, draft)

    async def _schedule(self, draft: Draft, times: dict[str, Any]) -> Response:
        count = times["count"]
        if count is not None and count != int(count):
            raise BadRequest(f"count must be an integer; got {count}", "count")
        if self._state.connections.closing is not None and not self._state.scheduled.durable:
            error = "server is shutting down; scheduled publications are not accepted"
            raise BadRequest(error, "schedules", 503)
        try:
            state = await self._state.scheduled.keep(
                draft,
                delay=times["delay"],
                at=times["at"],
                every=times["every"],
                count=None if count is None else int(count),
            )
        except ValueError as error:
            # Its first word is the name of the argument.
            raise BadRequest(error, str(error).split()[0]) from None
        except TooManyScheduled as error:
            raise BadRequest(error, "schedules", 503, {"Retry-After": "60"}) from None
        location = {"Location": f"/schedules/{state.id}"}
        return json_response(202, schedule_json(state), location)


class LastIdResource(AsyncResource):
    """``/last-id?topic=NAME`` at the control port: where a subscriber that comes later begins."""

    async def answer(self, request: Any) -> Response:
        """Return the id of the newest publication, or the one before the first."""
        require_known(request, "topic")
        given = request.args.get(b"topic", [b""])
        topic = read_topic(given[-1].decode(errors="replace"), "topic")
        # Unlike a description, it is kept for a subscriber that comes back with it.
        replay: Replay = await self._state.broker.replay(topic, None, 0)
        return json_response(200, {"topic": topic, "id": str(replay.last)})


class PublishResource(AsyncResource):
    """``POST /topics/<topic>`` at the public port, with a token that permits it.

    :param subject: the publisher; a subject's idempotency keys are separate from all others.
    """

    def __init__(self, state: DaemonState, name: str, subject: str) -> None:
        super().__init__(state, name)
        self._subject = subject

    methods = ("POST",)

    async def answer(self, request: Any) -> Response:
        """Publish at once."""
        topic = read_topic(self._name, "topic")
        for name in _SCHEDULE:
            if name.encode() in request.args:
                error = f"{', '.join(_SCHEDULE)} are accepted on the control port only"
                raise BadRequest(error, name)
        require_known(request, "token", "event")
        draft = _read_request(self._state, request, topic)
        if draft.key is not None:
            draft = replace(draft, key=f"{self._subject} {draft.key}")
        return await _publish(self._state, draft)

    def explain(self, error: Unavailable) -> str:
        """Log the reason, which is not for the public."""
        _log.warn(
            "publication to {topic} failed: {error}",
            event="not_published",
            topic=self._name,
            error=str(error),
        )
        return "broker unavailable: repeat the request later with the same Idempotency-Key"


class BatchResource(AsyncResource):
    """``/publish``: a batch of publications, all of which are made, or none."""

    methods = ("POST",)

    async def answer(self, request: Any) -> Response:
        """Publish the batch if all of it is valid."""
        for name in _SCHEDULE:
            if name.encode() in request.args:
                error = "a batch is published at once; schedule with POST /topics/<topic>"
                raise BadRequest(error, name)
        require_known(request)
        if request.header(b"Idempotency-Key") is not None:
            error = "a batch has no key: give each of its publications an idempotency_key"
            raise BadRequest(error, "Idempotency-Key")
        drafts = read_drafts(request.content.read(), self._state.limits.max_message)
        if self._state.rules:
            for number, draft in enumerate(drafts):
                check_size(self._state, draft, f"publications[{number}]")
        # If the client disconnects, only this Deferred is cancelled: the batch is still published.
        done: Deferred[list[Id]] = Deferred()
        room = self._state.hub.room()
        room.addCallback(lambda _: self._state.broker.publish_all(drafts)).chainDeferred(done)
        published = ",".join(published_texts(drafts, await done, self._state.hub.count))
        return Response(200, JSON_HEADERS, f'{{"published":[{published}]}}\n')


def publish_at_once(
    state: DaemonState, request: Any, name: bytes
) -> str | PublicationResource | None:
    """Publish as ``ControlTopicResource`` does, and return the JSON of the answer.

    Returns what will answer if the broker has to ask or to write first. Returns None, and does
    nothing, if something is wrong, or if the publication would have to wait for room.

    :param request: to ``/topics/…``, without a query.
    :param name: of the topic, as it stands in the path.
    """
    if not state.hub.has_room:
        return None
    try:
        draft = _read_request(state, request, check_topic(name.decode()))
    except (BadRequest, ValueError):
        return None
    id = state.broker.publish_at_once(draft)
    if id is None:
        return PublicationResource(state, draft)
    return _answer_text(state, draft, id)


class PublicationResource(Resource):
    """Publishes, and answers the request for that when the broker has answered.

    It is what ``ControlTopicResource`` does, without a coroutine and without checking again: for
    publications through Redis, a fifth of the CPU of the node that publishes.
    """

    isLeaf = True

    def __init__(self, state: DaemonState, draft: Draft) -> None:
        super().__init__()
        self._state = state
        self._draft = draft
        self._publishing = maybeDeferred(_begin, state, draft)

    def render(self, request: Any) -> int:
        """Answer once the publication has an id; if the client leaves, it is made all the same."""
        self._publishing.addCallback(self._answer, request).addErrback(self._refuse, request)
        return NOT_DONE_YET

    def _answer(self, id: Id, request: Any) -> None:
        if not request._disconnected:
            body = _answer_text(self._state, self._draft, id).encode()
            request.write_whole(request.site.at_once.write_head(len(body)), body)
            request.finish()

    def _refuse(self, failure: Failure, request: Any) -> None:
        error = failure.value
        if request._disconnected:
            return
        if isinstance(error, BadRequest):
            request.why_refused = error.line
            write_response(request, refuse(error))
        elif isinstance(error, Unavailable):
            write_response(request, refuse_unavailable(error))
        else:
            request.processingFailed(failure)


def max_batch_body(max_message: int) -> int:
    """Return the limit on the body of a batch, in bytes; the largest message in base64 fits."""
    return max(_BATCH_BODY, 2 * max_message)


def max_line(max_message: int) -> int:
    """Return the limit on a message with one publication, in bytes; that in base64 fits."""
    return 2 * max_message + _LINE


def read_topic(name: object, where: str) -> str:
    """Read a topic. Raises BadRequest."""
    if not isinstance(name, str):
        raise BadRequest("topic must be a string", where)
    try:
        return check_topic(name)
    except ValueError as error:
        raise BadRequest(error, where) from None


def check_size(state: DaemonState, draft: Draft, where: str) -> None:
    """Raise BadRequest (413) for a draft that is too long for the rule of its topic."""
    rule = state.rules.find(draft.topic)
    if rule.max_message is None:
        return  # The limit of the daemon has been checked.
    size = len(draft.data.encode() if isinstance(draft.data, str) else draft.data)
    if size > rule.max_message:
        line = f"a publication of {size} bytes: max-message of {rule.match} is {rule.max_message}"
        raise BadRequest(line, where, 413)


def read_key(given: object, where: str) -> str | None:
    """Read an idempotency key, or None if it is absent. Raises BadRequest."""
    if given is None:
        return None
    if not isinstance(given, str) or not _KEY.fullmatch(given):
        error = "an idempotency key must have 1 to 200 printable ASCII characters and no blank"
        raise BadRequest(error, where)
    return given


def _read_event(given: object, where: str) -> str | None:
    """Read the name of an event, or None if it is absent. Raises BadRequest."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise BadRequest("event must be a string", where)
    try:
        return check_event(given)
    except ValueError as error:
        raise BadRequest(error, where) from None


def read_data(request: Any) -> tuple[str | bytes, bool]:
    """Read a body, and whether it is JSON, as its type says: application/json.

    It is bytes if its type is application/octet-stream, else UTF-8 text.
    """
    data: bytes = request.content.read()
    kind = (read_header(request, b"Content-Type") or "").partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return data, False
    try:
        text = data.decode()
    except UnicodeDecodeError:
        line = "the body is not valid UTF-8; send bytes as application/octet-stream"
        raise BadRequest(line, "body") from None
    if kind != "application/json":
        return text, False
    try:
        return check_json(text), True
    except ValueError as error:
        line = f"the body is {error}; send other text as text/plain"
        raise BadRequest(line, "body") from None


def _read_request(state: DaemonState, request: Any, topic: str) -> Draft:
    """Read the publication that a POST to a topic makes. Raises BadRequest."""
    data, is_json = read_data(request)
    event = _read_event(read_argument(request, "event"), "event")
    key = read_key(read_header(request, b"Idempotency-Key"), "Idempotency-Key")
    draft = Draft(topic, data, key, event, is_json)
    check_size(state, draft, "body")
    return draft


def read_number(request: Any, name: str) -> float | None:
    """Read a number of the query, or None if it is absent. Raises BadRequest."""
    given = read_argument(request, name)
    if given is None:
        return None
    number = parse_number(given)
    if number is None:
        raise BadRequest(f"{name} must be a number such as 0.5", name)
    return number


def _read_time(request: Any, name: str) -> float | None:
    """Read a time of the query as seconds since 1970, or None if it is absent."""
    given = read_argument(request, name)
    try:
        return None if given is None else parse_timestamp(given)
    except ValueError as error:
        raise BadRequest(f"{name} {error}", name) from None


def read_header(request: Any, name: bytes) -> str | None:
    """Return a header as text, or None if it is absent.

    :param name: as ``RequestHeaders`` spells it.
    """
    headers: RequestHeaders = request.requestHeaders
    return headers.last(name)


def read_drafts(body: bytes, max_message: int) -> list[Draft]:
    """Read a batch. Raises BadRequest for the first thing in it that is not valid."""
    if _has_too_many_parts(body):
        line = (
            f"a batch must have at most {_MAX_BATCH} publications, "
            f"and {_MAX_MARKS} commas and colons, or strings"
        )
        raise BadRequest(line, "publications", 413)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", "body") from None
    publications = value.get("publications") if isinstance(value, dict) else None
    if not isinstance(publications, list):
        raise BadRequest('the body must be {"publications": […]}', "body")
    if unknown := value.keys() - {"publications"}:
        raise BadRequest("unknown key", _quote(min(unknown)))
    if len(publications) > _MAX_BATCH:
        line = f"a batch must have at most {_MAX_BATCH} publications; got {len(publications)}"
        raise BadRequest(line, "publications", 413)
    plain = PlainReader(max_message)
    return [
        plain.read(one) or read_draft(one, max_message, f"publications[{number}]")
        for number, one in enumerate(publications)
    ]


def _has_too_many_parts(body: bytes) -> bool:
    """Return whether JSON has more parts than a batch can have, without parsing it."""
    if sum(map(body.count, _MARKS)) <= _MAX_MARKS:
        return False  # Nearly always.
    # Not counting those in strings, which end at the next quotation mark that is not escaped.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 2 * _MAX_MARKS:
        return True
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, _MARKS)) > _MAX_MARKS


class PlainReader:
    """Reads publications that have a topic and short text as their data, and no mistake.

    Most are such, and all the checks of ``read_draft`` take four times as long.
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        # The topics that are known to be valid: most come again and again.
        self._topics: set[str] = set()

    def read(self, value: object) -> Draft | None:
        """Return the draft; None for what is unusual or wrong."""
        if type(value) is not dict or len(value) != 2:
            return None
        topic, data = value.get("topic"), value.get("data")
        if type(data) is not str or len(data) > self._max_message or not data.isascii():
            return None
        if type(topic) is not str or topic not in self._topics:
            try:
                topic = read_topic(topic, "topic")
            except BadRequest:
                return None
            self._topics.add(topic)
        return Draft(topic, data)


def read_draft(value: object, max_message: int, where: str = "") -> Draft:
    """Read a publication that is one object of JSON. Raises BadRequest, which says where.

    :param where: the place of the object; empty if it is the whole message.
    """
    draft = _read_members(value, where)
    size = len(draft.data.encode() if isinstance(draft.data, str) else draft.data)
    if size > max_message:
        line = f"a publication of {size} bytes: --max-message is {max_message}"
        raise BadRequest(line, where or "message", 413)
    return draft


def _read_members(value: object, where: str) -> Draft:
    if not isinstance(value, dict):
        raise BadRequest("a publication must be an object", where or "message")
    prefix = f"{where}." if where else ""
    unknown = value.keys() - {"topic", "event", "idempotency_key", *_DATA}
    if unknown:
        raise BadRequest("unknown key", f"{prefix}{_quote(min(unknown))}")
    topic = read_topic(value.get("topic"), f"{prefix}topic")
    if sum(name in value for name in _DATA) != 1:
        raise BadRequest("a publication must have either data, base64 or json", where or "message")
    key = read_key(value.get("idempotency_key"), f"{prefix}idempotency_key")
    event = _read_event(value.get("event"), f"{prefix}event")
    if "data" in value:
        if not isinstance(value["data"], str) or not is_encodable(value["data"]):
            raise BadRequest("data must be a string of valid Unicode", f"{prefix}data")
        return Draft(topic, value["data"], key, event)
    if "json" in value:
        try:
            text = encode_json(value["json"])
        except ValueError as error:
            raise BadRequest(error, f"{prefix}json") from None
        if not is_encodable(text):
            raise BadRequest("json must have strings of valid Unicode only", f"{prefix}json")
        return Draft(topic, text, key, event, True)
    try:
        return Draft(topic, b64decode(value["base64"], validate=True), key, event)
    except (TypeError, ValueError, binascii.Error):
        raise BadRequest("base64 must be a string in base64", f"{prefix}base64") from None


def _quote(name: str) -> str:
    """Return a name escaped: it may hold half a surrogate pair, which UTF-8 cannot encode."""
    return ascii(name)[1:-1][:100]


def published_text(id: Id, subscribers: int) -> str:
    """Return the JSON of a publication: its id, and the topic's current number of subscribers.

    It is a quarter of the work of an encoder: nothing in it is ever escaped.
    """
    return f'{{"id":"{id.epoch}:{id.offset}","subscribers":{subscribers}}}'


def published_texts(
    drafts: Sequence[Draft], ids: Iterable[Id], count: Callable[[str], int]
) -> Iterator[str]:
    """Return the JSON of several publications; see ``published_text``.

    :param count: returns the number of a topic's subscribers, and is asked once for each topic.
    """
    counts = {topic: count(topic) for topic in {draft.topic for draft in drafts}}
    return (
        f'{{"id":"{id.epoch}:{id.offset}","subscribers":{counts[draft.topic]}}}'
        for draft, id in zip(drafts, ids, strict=True)
    )


def schedule_json(scheduled: ScheduleState) -> dict[str, Any]:
    """Return the JSON that describes a scheduled publication."""
    return {
        "schedule": scheduled.id,
        "topic": scheduled.topic,
        "count": scheduled.count,
        "done": scheduled.done,
        "every": scheduled.every,
        "due": format_timestamp(scheduled.due),
    }


async def topic_json(state: DaemonState, topic: str) -> dict[str, Any]:
    """Return the JSON that describes a topic."""
    described: tuple[Id | None, int] = await state.broker.describe(topic)
    last, history = described
    transports = Counter(one.transport for one in state.hub.subscribers(topic))
    return {
        "topic": topic,
        "id": None if last is None else str(last),
        "history": history,
        "subscribers": dict(transports),
    }


async def _publish(state: DaemonState, draft: Draft) -> Response:
    """Publish, once there is room; return the response."""
    await state.hub.room()
    return Response(200, JSON_HEADERS, _answer_text(state, draft, await _begin(state, draft)))


def _begin(state: DaemonState, draft: Draft) -> Deferred[Id]:
    """Have the broker publish."""
    return state.broker.publish(draft.topic, draft.data, draft.key, draft.event, draft.is_json)


def _answer_text(state: DaemonState, draft: Draft, id: Id) -> str:
    """Return the body of the answer to a publication that was made."""
    return f"{published_text(id, state.hub.count(draft.topic))}\n"
