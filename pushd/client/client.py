"""A client that blocks, for scripts and for servers that are no Twisted: nothing but Python.

from pushd.client import publish
publish("http://127.0.0.1:8081", "news", "hello")
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from random import uniform
from threading import Event
from typing import Any
from urllib.parse import quote

from pushd.client.http import Connect, Remote, connect
from pushd.errors import PushdError, Refused, Unreachable

# All that those who use it have to do with is had from here.
__all__ = [
    "Began",
    "Broken",
    "Client",
    "Connect",
    "Message",
    "PushdError",
    "Refused",
    "Unreachable",
    "connect",
    "publish",
]

# How long a request may take, in seconds.
TIMEOUT = 10.0

# How long a stream may be silent, in seconds: pushd sends a comment every 25.
_SILENCE = 60.0

# How long to wait before a stream is asked for anew, in seconds: at first, and at most.
_SHORTEST = 0.5
_LONGEST = 20.0


@dataclass(frozen=True, slots=True)
class Began:
    """A stream has begun, or begun anew: what comes follows this id.

    ``recovered`` says that nothing is missing since the id that was asked for.
    """

    id: str
    recovered: bool


@dataclass(frozen=True, slots=True)
class Broken:
    """A stream broke off; it is asked for again after so many seconds."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Message:
    """A publication as it was heard."""

    id: str
    data: str | bytes


def publish(
    url: str,
    topic: str,
    data: str | bytes,
    *,
    delay: float | None = None,
    every: float | None = None,
    count: int | None = None,
    idempotency_key: str | None = None,
    token: str | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """Publish text, or bytes, to a topic, with one request on a connection of its own.

    :param url: where the control port is, such as ``http://127.0.0.1:8081``; or the public one,
        with a token.
    :param delay: publish after so many seconds; with ``every`` and ``count``, again and again.
    :param timeout: seconds that each step of it may take.

    Returns what pushd says: ``{"id": …, "subscribers": …}``, or, for what comes later,
    ``{"schedule": …}``. Raises Refused when it says no, and Unreachable when it is not there: then
    it may have published all the same, and an ``idempotency_key`` makes it safe to try again.
    """
    times = {"delay": delay, "every": every, "count": count}
    return Client(url, token=token, timeout=timeout).publish(
        topic, data, idempotency_key=idempotency_key, **times
    )


class Client:
    """One pushd, asked over HTTP, with a connection for each request.

    :param url: where a door is: ``http://host:port``, perhaps with a path in front of all others.
    :param token: the token to show.
    :param timeout: seconds that each step of a request may take.
    :param connect: makes the connections.
    :param pause: waits some seconds, before a stream is asked for anew.

    Raises ValueError for what is no such URL.
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
        self._remote = Remote(url, token=token, connect=connect)
        self._timeout = timeout
        self._pause = pause or Event().wait

    def publish(
        self,
        topic: str,
        data: str | bytes,
        *,
        idempotency_key: str | None = None,
        **times: float | None,
    ) -> dict[str, Any]:
        """Publish; see the function of this name."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"what is published is str or bytes, not {type(data).__name__}")
        query = {name: value for name, value in times.items() if value is not None}
        kind = "text/plain; charset=utf-8" if isinstance(data, str) else "application/octet-stream"
        headers = {"Content-Type": kind}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        body = data.encode() if isinstance(data, str) else data
        said = self.ask("POST", _topic_path(topic), query, body, headers)
        return self._check(said, "schedule" if query else "id")

    def topics(self) -> dict[str, Any]:
        """The topics that are there, a thousand at most, and whether there are ``more``."""
        return self._check(self.ask("GET", "/topics"), "topics")

    def connections(self) -> Iterator[dict[str, Any]]:
        """The open connections, by their ids, however many there are."""
        after, more = 0, True
        while more:
            said = self._check(self.ask("GET", "/connections", {"after": after}), "connections")
            yield from said["connections"]
            more = said["more"]
            after = said["connections"][-1]["id"] if more else after

    def close(self, id: int, *, code: int | None = None, reason: str | None = None) -> None:
        """Close a connection, with a close code and a reason that its WebSocket is told."""
        asked = {"code": code, "reason": reason}
        query = {name: value for name, value in asked.items() if value is not None}
        self.ask("DELETE", f"/connections/{id}", query)

    def follow(self, topic: str, after: str | None = None) -> Iterator[Began | Broken | Message]:
        """Listen to a topic without end: what breaks off begins again where it was.

        :param after: the last id that is known; None: from now on.

        Raises Unreachable if it can't begin at all, and Refused if it may not, or may not go on.
        """
        been, breaks = False, 0
        while True:
            try:
                for heard in self._stream(topic, after):
                    been, breaks, after = True, 0, heard.id
                    yield heard
                error: PushdError = Unreachable("the stream ended")
            except Unreachable as unreachable:
                error = unreachable
            except Refused as refused:
                error = refused
                if refused.status < 500 and refused.status != 429:
                    raise
            if not been:
                raise error
            # Those who lost their server together do not come back together.
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
        """Make one request; gives the JSON of the answer, or None where it has none."""
        with self._remote.open(method, path, query, body, headers, timeout=self._timeout) as answer:
            said = answer.read()
            return json.loads(said) if said else None

    def _stream(self, topic: str, after: str | None) -> Iterator[Began | Message]:
        """Listen until the stream ends (WHATWG HTML §9.2)."""
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        path = _topic_path(topic)
        with self._remote.open("GET", path, headers=headers, timeout=_SILENCE) as stream:
            if not (stream.getheader("Content-Type") or "").startswith("text/event-stream"):
                raise self._remote.stranger()
            try:
                yield from _read_events(stream)
            except (LookupError, TypeError):
                raise self._remote.stranger() from None

    def _check(self, said: Any, name: str) -> dict[str, Any]:
        """The answer, if it has what pushd's has."""
        if not isinstance(said, dict) or name not in said:
            raise self._remote.stranger()
        return said


def _topic_path(topic: str) -> str:
    return f"/topics/{quote(topic)}"


def _read_events(stream: HTTPResponse) -> Iterator[Began | Message]:
    """Read events; one that is cut off in the middle is none."""
    event, id, data = "", "", list[str]()
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            event = value
        elif name == "id":
            id = value
        elif name == "data":
            data.append(value)
        elif not name and data:
            yield _read_event(event, id, "\n".join(data))
            event, data = "", []


def _read_event(event: str, id: str, data: str) -> Began | Message:
    match event:
        case "subscribed":
            said = json.loads(data)
            return Began(said["id"], said["recovered"])
        case "json":
            return Message(id, json.loads(data))
        case "base64":
            return Message(id, b64decode(data))
    return Message(id, data)
