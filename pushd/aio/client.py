"""Client of a pushd for asyncio: publish, and subscribe with an asynchronous iterator."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from inspect import isawaitable
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pushd.aio.http import AsyncHttp
from pushd.aio.messages import Began, Broken, Message
from pushd.aio.subscription import Subscription, Transport
from pushd.aio.transports import EventStreams, WebSockets
from pushd.client.client import TIMEOUT, topic_path, write_batch, write_publication
from pushd.errors import PushdError

# The variables with the URLs of the ports, and their defaults, as for pushdctl.
_PUBLIC = ("PUSHD_URL", "http://127.0.0.1:8080")
_CONTROL = ("PUSHD_CONTROL_URL", "http://127.0.0.1:8081")

#: A token, or a function that returns a valid one.
Token = str | Callable[[], str | Awaitable[str]]


class Client:
    """A pushd, for use in ``async with``.

    :param url: URL of the public port, for subscriptions; by default that of the environment
        variable ``PUSHD_URL``, or ``http://127.0.0.1:8080``. A path in it is put before all others.
        For a port on a Unix socket ``unix:`` and its path, such as ``unix:/run/pushd/web.sock``.
    :param control: URL of the control port, for publishing; by default that of
        ``PUSHD_CONTROL_URL``, or ``http://127.0.0.1:8081``. With a token it may be the public port.
    :param token: token to send with each request, or a function that returns one, plain or async,
        which is called before each request.
    :param timeout: seconds that each step of a request may take.
    :param context: how TLS is used; None for the certificates of the system.
    :param transports: the transports of subscriptions, the preferred one first.

    Raises ValueError if a URL is not valid, or a transport unknown.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        control: str | None = None,
        token: Token | None = None,
        timeout: float = TIMEOUT,
        context: ssl.SSLContext | None = None,
        transports: Iterable[str] = ("websocket", "sse"),
    ) -> None:
        public = os.environ.get(*_PUBLIC) if url is None else url
        control = os.environ.get(*_CONTROL) if control is None else control
        self._token = token
        self._timeout = timeout
        self._transports = tuple(transports)
        if not self._transports or not {"websocket", "sse"}.issuperset(self._transports):
            raise ValueError(f"transports must be websocket and sse; got {self._transports}")
        self._public, self._control = (
            AsyncHttp(one, authorize=self._authorize, timeout=timeout, context=context)
            for one in (public, control)
        )
        # WebSockets, which are closed with the client; and whether it is closed.
        self._websockets: set[WebSockets] = set()
        self._closed = asyncio.Event()

    async def publish(
        self,
        topic: str,
        data: str | bytes | dict[str, Any] | list[Any],
        *,
        event: str | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        every: float | None = None,
        count: int | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Publish text, bytes or JSON; see ``pushd.client.publish`` for arguments and errors."""
        times = {"delay": delay, "at": at, "every": every, "count": count}
        request = write_publication(topic, data, event, idempotency_key, times)
        response = await self._control.ask(
            "POST", request.path, request.query, request.body, request.headers
        )
        return self._check(response, request.expected)

    async def publish_all(self, publications: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Publish all or none with one request; see ``pushd.client.Client.publish_all``."""
        response = await self._control.ask("POST", "/publish", body=write_batch(publications))
        published: list[dict[str, Any]] = self._check(response, "published")["published"]
        return published

    async def last_id(self, topic: str) -> str:
        """Return the id after which a subscriber that comes later misses nothing."""
        response = await self._control.ask("GET", "/last-id", {"topic": topic})
        id: str = self._check(response, "id")["id"]
        return id

    async def schedules(self) -> list[dict[str, Any]]:
        """Return all scheduled publications that are not finished, of all nodes."""
        response = await self._control.ask("GET", "/schedules")
        found: list[dict[str, Any]] = self._check(response, "schedules")["schedules"]
        return found

    async def cancel(self, id: str) -> None:
        """Cancel a scheduled publication, of any node. Raises Refused (404) if there is none."""
        await self._control.ask("DELETE", f"/schedules/{quote(id, safe='')}")

    async def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        after: str | Mapping[str, str] | None = None,
        json: bool = False,
    ) -> AsyncGenerator[Message, None]:
        """Subscribe to topics over one connection, and yield what is published to them.

        After a break it reconnects and resumes, without a gap as long as the history reaches back;
        ``follow`` tells whether it did. It ends when the client is closed.

        :param topics: a topic, or several.
        :param after: the last id received, of the one topic, or by topic; None for new publications
            only.
        :param json: whether the data of publications that are JSON is the value, not its text.

        Raises Unreachable if the first connection fails, Refused if pushd refuses a topic, and
        ValueError for arguments that are not valid.
        """
        async with aclosing(self.follow(topics, after=after, json=json)) as events:
            async for event in events:
                if isinstance(event, Message):
                    yield event

    async def follow(
        self,
        topics: str | Iterable[str],
        *,
        after: str | Mapping[str, str] | None = None,
        json: bool = False,
    ) -> AsyncGenerator[Began | Broken | Message, None]:
        """Subscribe like ``subscribe``, and also yield how the subscription fares.

        That is a ``Began`` for each topic whenever its subscription begins or resumes, and a
        ``Broken`` when the connection breaks.
        """
        positions = _read_positions(topics, after)
        websockets = WebSockets(self._public, self._authorize, timeout=self._timeout, json=json)
        made: dict[str, Transport] = {
            "websocket": websockets,
            "sse": EventStreams(self._public, json=json),
        }
        subscription = Subscription(
            positions,
            [made[name] for name in self._transports],
            pause=self._pause,
            renews_token=callable(self._token),
        )
        self._websockets.add(websockets)
        try:
            async with aclosing(subscription.follow()) as events:
                async for event in events:
                    if self._closed.is_set():
                        return
                    yield event
        except PushdError:
            if not self._closed.is_set():
                raise
        finally:
            self._websockets.discard(websockets)

    async def close(self) -> None:
        """Close all connections, and end all subscriptions."""
        self._closed.set()
        for websockets in list(self._websockets):
            await websockets.close()
        await self._public.close()
        await self._control.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _authorize(self) -> dict[str, str]:
        token: Any = self._token() if callable(self._token) else self._token
        if isawaitable(token):
            token = await token
        # One that was read from a file or an answer often has a line end.
        return {"Authorization": f"Bearer {token.strip()}"} if token else {}

    async def _pause(self, seconds: float) -> bool:
        """Wait for some seconds, or until the client is closed; return whether it is open."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), seconds)
        return not self._closed.is_set()

    def _check(self, response: Any, name: str) -> dict[str, Any]:
        """Return a response if it has a member that pushd's has; raises Unreachable if not."""
        if not isinstance(response, dict) or name not in response:
            raise self._control.not_pushd()
        return response


def _read_positions(
    topics: str | Iterable[str], after: str | Mapping[str, str] | None
) -> dict[str, str | None]:
    """Return the topics, each with its last id. Raises ValueError."""
    names = [topics] if isinstance(topics, str) else list(topics)
    if not names:
        raise ValueError("a subscription needs a topic")
    for name in names:
        topic_path(name)
    if isinstance(after, str):
        if len(names) > 1:
            raise ValueError("after must be a mapping of topics to ids if there are several topics")
        after = {names[0]: after}
    if unknown := set(after or ()).difference(names):
        raise ValueError(f"after has topics that are not subscribed to: {', '.join(unknown)}")
    return {name: (after or {}).get(name) for name in names}
