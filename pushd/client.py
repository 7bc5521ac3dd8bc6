"""A client that blocks, for scripts and for servers that are no Twisted: nothing but Python.

from pushd.client import publish
publish("http://127.0.0.1:8081", "news", "hello")
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from random import uniform
from threading import Event
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

# How long a request may take, in seconds.
TIMEOUT = 10.0

# How long a stream may be silent, in seconds: pushd sends a comment every 25.
_SILENCE = 60.0

# How long to wait before a stream is asked for anew, in seconds: at first, and at most.
_SHORTEST = 0.5
_LONGEST = 20.0


class PushdError(Exception):
    """What went wrong, in one line."""


class Unreachable(PushdError):
    """There is no pushd at this address, or it went away in the midst of an answer."""


class Refused(PushdError):
    """A pushd is there, and says no.

    :param where: what in the request it is about, as in ``{"error": …, "where": …}``.
    :param retry_after: seconds after which another try may be worth it; None without a word.
    """

    def __init__(self, status: int, error: str, where: str | None, retry_after: float | None):
        super().__init__(f"{error} ({status})" if where is None else f"{where}: {error} ({status})")
        self.status = status
        self.where = where
        self.retry_after = retry_after


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


# Makes a connection that is not open yet: scheme, host, port and the time-out in seconds.
Connect = Callable[[str, str, int | None, float], HTTPConnection]


def connect(scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
    """Make a connection of Python's own library."""
    kind = HTTPSConnection if scheme == "https" else HTTPConnection
    return kind(host, port, timeout=timeout)


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

    :param url: where the control door is, such as ``http://127.0.0.1:8081``; or the public one,
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
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL like http://127.0.0.1:8081")
        self._url = url
        self._scheme, self._host, self._port = parts.scheme, parts.hostname, port
        self._path = parts.path.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._connect = connect
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
        connection = self._connect(self._scheme, self._host, self._port, self._timeout)
        try:
            said = self._send(connection, method, path, query, body, headers).read()
            return json.loads(said) if said else None
        except ValueError:
            raise self._stranger() from None
        except (OSError, HTTPException) as error:
            raise Unreachable(self._explain(error)) from None
        finally:
            connection.close()

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HTTPResponse:
        """Make a request; gives the answer, not read yet, if it is a good one."""
        target = f"{self._path}{path}" + (f"?{urlencode(query)}" if query else "")
        shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, target, body, {**shown, **(headers or {})})
        except ValueError as error:
            raise PushdError(str(error)) from None
        answer = connection.getresponse()
        if 200 <= answer.status < 300:
            return answer
        raise _refusal(answer)

    def _stream(self, topic: str, after: str | None) -> Iterator[Began | Message]:
        """Listen until the stream ends (WHATWG HTML §9.2)."""
        connection = self._connect(self._scheme, self._host, self._port, _SILENCE)
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = after
        try:
            stream = self._send(connection, "GET", _topic_path(topic), None, None, headers)
            if not (stream.getheader("Content-Type") or "").startswith("text/event-stream"):
                raise self._stranger()
            yield from _read_events(stream)
        except (ValueError, LookupError, TypeError):
            raise self._stranger() from None
        except (OSError, HTTPException) as error:
            raise Unreachable(self._explain(error)) from None
        finally:
            connection.close()

    def _check(self, said: Any, name: str) -> dict[str, Any]:
        """The answer, if it has what pushd's has."""
        if not isinstance(said, dict) or name not in said:
            raise self._stranger()
        return said

    def _stranger(self) -> Unreachable:
        return Unreachable(f"what answers at {self._url} is no pushd")

    def _explain(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self._url} does not answer in time"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{self._url} does not answer: {reason}"


def _topic_path(topic: str) -> str:
    return f"/topics/{quote(topic)}"


def _refusal(answer: HTTPResponse) -> Refused:
    """What an answer says that is no good one."""
    text = answer.read().decode(errors="replace")
    wait = answer.getheader("Retry-After") or ""
    retry_after = float(wait) if wait.isascii() and wait.isdigit() else None
    try:
        said = json.loads(text)
        error, where = str(said["error"]), said.get("where")
    except (ValueError, LookupError, TypeError, AttributeError):
        # A view, a proxy, or something else that is not pushd.
        short = " ".join(text.split())
        error, where = short if 0 < len(short) < 200 else answer.reason, None
    return Refused(answer.status, error, where, retry_after)


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
