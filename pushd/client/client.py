"""Client of a pushd: publish, subscribe, list and close connections over blocking HTTP."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPResponse
from random import uniform
from threading import Event
from typing import Any, NamedTuple
from urllib.parse import quote

from pushd.client.http import Connect, HttpClient, connect
from pushd.errors import PushdError, Refused, Unreachable

# Seconds that each step of a request may take.
TIMEOUT = 10.0

# Seconds after which a silent event stream is given up as dead: pushd sends a comment every 25
# seconds, which we can see, as a page cannot.
_SILENCE = 45.0

# Seconds before an event stream is reconnected: the longest pause after the first break, and the
# longest of all.
_SHORTEST = 0.5
_LONGEST = 20.0

# Segments that no topic has.
_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, slots=True)
class Began:
    """A subscription has started, or was resumed: publications after ``id`` follow.

    ``recovered`` is True if no publication since the requested id was missed.
    """

    id: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection of a subscription broke; it is reconnected after ``seconds``."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Message:
    """A publication that was received, and the name of its event, if any."""

    id: str
    data: str | bytes
    event: str | None = None


def publish(
    url: str,
    topic: str,
    data: str | bytes | dict[str, Any] | list[Any],
    *,
    event: str | None = None,
    delay: float | None = None,
    at: datetime | None = None,
    every: float | None = None,
    count: int | None = None,
    idempotency_key: str | None = None,
    token: str | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Publish text, bytes or JSON to a topic, with one request on a connection of its own.

    :param url: URL of the control port, such as ``http://127.0.0.1:8081``, or of the public port
        together with a token.
    :param data: a dict or list is published as JSON.
    :param event: the name of its event.
    :param delay: seconds after which to publish.
    :param at: time at which to publish, with a time zone, in place of the delay.
    :param every: seconds between repetitions; requires ``count``.
    :param count: number of times to publish; requires ``every``.
    :param idempotency_key: a request that repeats the key of an earlier one publishes nothing.
    :param timeout: seconds that each step of the request may take.

    Returns pushd's response: ``{"id": …, "subscribers": …}``, or ``{"schedule": …}`` for scheduled
    publications. Raises ValueError for a topic with ``.`` or ``..`` as a segment, Refused if pushd
    refuses, and Unreachable if it does not respond. In the
    latter case the publication may have been made; with an ``idempotency_key`` it is safe to try
    again.
    """
    return Client(url, token=token, timeout=timeout).publish(
        topic,
        data,
        event=event,
        idempotency_key=idempotency_key,
        delay=delay,
        at=at,
        every=every,
        count=count,
    )


class Client:
    """A pushd, reached over HTTP with a new connection for each request.

    :param url: URL of the control port or the public port, such as ``http://127.0.0.1:8081``. A
        path in it is put before the paths of all requests. For a port on a Unix socket ``unix:``
        and its path, such as ``unix:/run/pushd/control.sock``.
    :param token: token to send with each request.
    :param timeout: seconds that each step of a request may take.
    :param connect: makes the connections.
    :param pause: waits for some seconds before a subscription is reconnected.

    Raises ValueError if the URL is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT,
        connect: Connect = connect,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        self._http = HttpClient(url, token=token, connect=connect)
        self._timeout = timeout
        self._pause = pause or Event().wait

    def publish(
        self,
        topic: str,
        data: str | bytes | dict[str, Any] | list[Any],
        *,
        event: str | None = None,
        idempotency_key: str | None = None,
        content_type: str | None = None,
        **times: float | datetime | None,
    ) -> dict[str, Any]:
        """Publish; see the function ``publish``.

        :param content_type: what the data is, if its type does not tell: ``application/json`` for
            text that is JSON already.
        """
        request = write_publication(topic, data, event, idempotency_key, times)
        if content_type is not None:
            request.headers["Content-Type"] = content_type
        response = self.ask("POST", request.path, request.query, request.body, request.headers)
        return self._check(response, request.expected)

    def publish_all(self, publications: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Publish up to a thousand publications with one request: all of them or none.

        Each is a mapping with ``topic``, ``data``, and if wanted ``event`` and ``idempotency_key``,
        as the arguments of ``publish``. Returns the response for each. The URL must be that of the
        control port.
        """
        response = self.ask("POST", "/publish", body=write_batch(publications))
        published: list[dict[str, Any]] = self._check(response, "published")["published"]
        return published

    def last_id(self, topic: str) -> str:
        """Return the id after which a subscriber that comes later misses nothing.

        It is that of the topic's newest publication, or the one before the first, and is kept for
        the daemon's ``--history-ttl``. The URL must be that of the control port.
        """
        id: str = self._check(self.ask("GET", "/last-id", {"topic": topic}), "id")["id"]
        return id

    def health(self, *, live: bool = False) -> dict[str, Any]:
        """Return ``{"status": "ready"}``, or with ``live`` ``{"status": "alive"}``.

        A daemon that is alive is not ready while it starts, drains, or cannot reach its Redis: then
        it raises Refused (503), whose text has the reason. The URL must be that of the control
        port.
        """
        return self._check(self.ask("GET", "/healthz" if live else "/readyz"), "status")

    def topics(self) -> dict[str, Any]:
        """Return up to a thousand topics, and ``more``: whether there are further ones."""
        return self._check(self.ask("GET", "/topics"), "topics")

    def rules(self, topic: str) -> dict[str, Any]:
        """Return the rule that holds for a topic, with the daemon's defaults in their places."""
        return self._check(self.ask("GET", "/rules", {"topic": topic}), "match")

    def all_rules(self) -> list[dict[str, Any]]:
        """Return all rules, with the daemon's defaults in their places.

        They are in the order in which they are tried. The last one, whose ``match`` is None, holds
        for the topics that match no other.
        """
        rules: list[dict[str, Any]] = self._check(self.ask("GET", "/rules"), "rules")["rules"]
        return rules

    def presence(self, topic: str) -> dict[str, Any]:
        """Return who is present at a topic, whose rule must have presence.

        ``subjects`` is None if there are more than ``--max-present``: then only ``count`` and
        ``connections``, the numbers of subjects and of their connections, are known.
        """
        return self._check(self.ask("GET", "/presence", {"topic": topic}), "subjects")

    def connections(self) -> Iterator[dict[str, Any]]:
        """Return all open connections, in the order of their ids."""
        after, more = 0, True
        while more:
            page = self._check(self.ask("GET", "/connections", {"after": after}), "connections")
            yield from page["connections"]
            more = page["more"]
            after = page["connections"][-1]["id"] if more else after

    def close(self, id: int, *, code: int | None = None, reason: str | None = None) -> None:
        """Close a connection; a WebSocket gets the close code and the reason."""
        closing = {"code": code, "reason": reason}
        query = {name: value for name, value in closing.items() if value is not None}
        self.ask("DELETE", f"/connections/{id}", query)

    def revoke(self, *, topic: str | None = None, subject: str | None = None) -> int:
        """End the subscriptions to a topic, or of a subject; return how many these are.

        Other nodes over the same Redis end theirs as well, which are not counted. The topic may be
        a pattern, as in tokens.
        """
        query = {"topic": topic, "subject": subject}
        given = {name: value for name, value in query.items() if value is not None}
        return int(self._check(self.ask("DELETE", "/subscriptions", given), "ended")["ended"])

    def schedules(self) -> list[dict[str, Any]]:
        """Return all scheduled publications that are not finished, of all nodes."""
        found: list[dict[str, Any]] = self._check(self.ask("GET", "/schedules"), "schedules")[
            "schedules"
        ]
        return found

    def cancel(self, id: str) -> None:
        """Cancel a scheduled publication, of any node. Raises Refused (404) if there is none."""
        self.ask("DELETE", f"/schedules/{quote(id, safe='')}")

    def follow(self, topic: str, after: str | None = None) -> Iterator[Began | Broken | Message]:
        """Subscribe to a topic without end: after a break, resume with the last id.

        :param after: the last id received; None for new publications only.

        Raises Unreachable if the first connection fails, and Refused if pushd refuses the first
        connection or a later one.
        """
        connected, breaks = False, 0
        while True:
            try:
                for event in self._stream(topic, after):
                    connected, breaks, after = True, 0, event.id
                    yield event
                error: PushdError = Unreachable("the stream ended")
            except Unreachable as unreachable:
                error = unreachable
            except Refused as refused:
                error = refused
                if refused.status < 500 and refused.status != 429:
                    raise
            if not connected:
                raise error
            # A random pause: the clients of a server that is restarted must not return at once.
            seconds = uniform(0, min(_LONGEST, _SHORTEST * 2**breaks))
            seconds = max(seconds, getattr(error, "retry_after", None) or 0)
            breaks = min(breaks + 1, 10)
            yield Broken(str(error), seconds)
            self._pause(seconds)

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Make a request, and return the JSON of the response; None if its body is empty."""
        with self._http.open(method, path, query, body, headers, timeout=self._timeout) as response:
            content = response.read()
            return json.loads(content) if content else None

    def _stream(self, topic: str, after: str | None) -> Iterator[Began | Message]:
        """Read an event stream until it ends (WHATWG HTML §9.2)."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        path = topic_path(topic)
        with self._http.open("GET", path, headers=headers, timeout=_SILENCE) as stream:
            if not (stream.getheader("Content-Type") or "").startswith("text/event-stream"):
                raise self._http.not_pushd()
            try:
                yield from _read_events(stream)
            except (AttributeError, LookupError, TypeError):
                raise self._http.not_pushd() from None

    def _check(self, response: Any, name: str) -> dict[str, Any]:
        """Return a response if it has a member that pushd's has; raises Unreachable if not."""
        if not isinstance(response, dict) or name not in response:
            raise self._http.not_pushd()
        return response


class PublishRequest(NamedTuple):
    """A request that publishes."""

    path: str
    query: dict[str, object]
    body: bytes
    headers: dict[str, str]
    #: A member that the response has.
    expected: str


def write_publication(
    topic: str,
    data: object,
    event: str | None,
    idempotency_key: str | None,
    times: Mapping[str, float | datetime | None],
) -> PublishRequest:
    """Write the request of ``publish``. Raises ValueError and TypeError like that function."""
    kind, body = _encode(data)
    # Seconds may have been computed, as a Decimal or a Fraction.
    query: dict[str, object] = {
        name: _write_time(value) for name, value in times.items() if value is not None
    }
    expected = "schedule" if query else "id"
    if event is not None:
        query["event"] = event
    headers = {"Content-Type": kind}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return PublishRequest(topic_path(topic), query, body, headers, expected)


def _write_time(value: float | datetime) -> object:
    """Write a number, or a time as RFC 3339 has it. Raises ValueError if that has no zone."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"at must have a time zone; got {value!r}")
        return value.astimezone(UTC).isoformat()
    return value if isinstance(value, int) else float(value)


def write_batch(publications: Iterable[Mapping[str, Any]]) -> bytes:
    """Write the body of a request that publishes several; see ``Client.publish_all``."""
    members = [_write_member(**publication) for publication in publications]
    return json.dumps({"publications": members}, allow_nan=False).encode()


def _write_member(
    topic: str, data: object, event: str | None = None, idempotency_key: str | None = None
) -> dict[str, object]:
    given = {"topic": topic, "event": event, "idempotency_key": idempotency_key}
    member: dict[str, object] = {name: one for name, one in given.items() if one is not None}
    if isinstance(data, bytes):
        member["base64"] = b64encode(data).decode()
    else:
        _encode(data)  # Raises TypeError for another type.
        member["data" if isinstance(data, str) else "json"] = data
    return member


def _encode(data: object) -> tuple[str, bytes]:
    """Return the type and the body of a request that publishes."""
    if isinstance(data, str):
        return "text/plain; charset=utf-8", data.encode()
    if isinstance(data, bytes):
        return "application/octet-stream", data
    if isinstance(data, dict | list):
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return "application/json", text.encode()
    raise TypeError(f"data must be str, bytes, dict or list; got {type(data).__name__}")


def topic_path(topic: str) -> str:
    """Return the path of a topic. Raises ValueError if a proxy could take it for another."""
    if not _DOTS.isdisjoint(topic.split("/")):
        raise ValueError(f"topic must not have . or .. as a segment; got {topic!r}")
    return f"/topics/{quote(topic)}"


class EventReader:
    """Reads an event stream line by line (WHATWG HTML §9.2), as far as pushd uses its format."""

    def __init__(self) -> None:
        self._event, self._id = "", ""
        self._data: list[str] = []

    def read_line(self, line: bytes) -> tuple[str, str, str] | None:
        """Take the next line; return the name, id and data of an event that it completes.

        The id is that of an earlier event if this one has none. Raises ValueError if the line is
        not UTF-8.
        """
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            self._event = value
        elif name == "id":
            self._id = value
        elif name == "data":
            self._data.append(value)
        elif not name and self._data:
            complete = self._event, self._id, "\n".join(self._data)
            self._event, self._data = "", []
            return complete
        return None


def _read_events(stream: HTTPResponse) -> Iterator[Began | Message]:
    """Read events; one that is cut off in the middle is dropped."""
    reader = EventReader()
    for line in stream:
        complete = reader.read_line(line)
        if complete is not None:
            yield _read_event(*complete)


def _read_event(event: str, id: str, data: str) -> Began | Message:
    match event:
        case "subscribed":
            value = json.loads(data)
            return Began(value["id"], value["recovered"])
        case "base64":
            return Message(id, b64decode(data))
        case "json":
            value = json.loads(data)
            if isinstance(value, str):
                return Message(id, value)
            encoded = value.get("base64")
            content = value["data"] if encoded is None else b64decode(encoded)
            return Message(id, content, value.get("event"))
    return Message(id, data, event or None)
