"""A door of a pushd somewhere else, asked over HTTP, and what can go wrong with that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlencode, urlsplit

from pushd.errors import PushdError, Refused, Unreachable

# Makes a connection that is not open yet: scheme, host, port and the time-out in seconds.
Connect = Callable[[str, str, int | None, float], HTTPConnection]


def connect(scheme: str, host: str, port: int | None, timeout: float) -> HTTPConnection:
    """Make a connection of Python's own library."""
    kind = HTTPSConnection if scheme == "https" else HTTPConnection
    return kind(host, port, timeout=timeout)


class Remote:
    """One door, with a connection for each request.

    :param url: where it is: ``http://host:port``, perhaps with a path in front of all others.
    :param token: the token to show.
    :param connect: makes the connections.

    Raises ValueError for what is no such URL.
    """

    def __init__(self, url: str, *, token: str | None, connect: Connect) -> None:
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
        self._connect = connect

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float,
    ) -> Iterator[HTTPResponse]:
        """Make a request; gives the answer, not read yet, if it is a good one.

        Raises Refused where it is none. What goes wrong while it is read is Unreachable, and so is
        a ValueError: what answers is no pushd then.
        """
        target = f"{self._path}{path}" + (f"?{urlencode(query)}" if query else "")
        connection = self._connect(self._scheme, self._host, self._port, timeout)
        try:
            yield self._send(connection, method, target, body, headers or {})
        except ValueError:
            raise self.stranger() from None
        except (OSError, HTTPException) as error:
            raise Unreachable(self._explain(error)) from None
        finally:
            connection.close()

    def stranger(self) -> Unreachable:
        """The error for an answer that pushd does not give."""
        return Unreachable(f"what answers at {self._url} is no pushd")

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> HTTPResponse:
        shown = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, target, body, {**shown, **headers})
        except ValueError as error:
            raise PushdError(str(error)) from None
        answer = connection.getresponse()
        if 200 <= answer.status < 300:
            return answer
        raise _refusal(answer)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self._url} does not answer in time"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{self._url} does not answer: {reason}"


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
