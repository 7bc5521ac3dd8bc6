"""The two transports of a subscription: a WebSocket, and Server-Sent Events as a fallback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from pushd.aio.http import AsyncHttp, Authorize
from pushd.client.client import topic_path
from pushd.client.http import NO_REASON, read_refusal
from pushd.errors import PushdError, Refused, Unreachable

_SUBPROTOCOL = Subprotocol("pushd.v1")

# Seconds that the closing handshake may take.
_CLOSE_TIMEOUT = 2.0

# A server closes with this code what the client must not open again as it was (RFC 6455 §7.4.1),
# and with this reason if a fresh token may help.
_POLICY = 1008
_TOKEN_EXPIRED = "token expired"


class WebSockets:
    """Subscribes over a WebSocket: one topic at its own URL, several at ``/topics``.

    :param json: whether publications that are JSON arrive as values, not as text.
    """

    def __init__(
        self, http: AsyncHttp, authorize: Authorize, *, timeout: float, json: bool = False
    ) -> None:
        self._http = http
        self._authorize = authorize
        self._timeout = timeout
        self._query = {"format": "json"} if json else {}
        # The connections that are open.
        self._open: set[ClientConnection] = set()

    async def __call__(self, positions: Mapping[str, str | None]) -> AsyncGenerator[Any, None]:
        """Subscribe, and yield the JSON value of each message."""
        topic = _only(positions)
        websocket = await self._connect(positions, topic)
        self._open.add(websocket)
        try:
            if topic is None:
                for name, after in positions.items():
                    asked = {"subscribe": name, **self._query}
                    await websocket.send(
                        json.dumps(asked if after is None else {**asked, "after": after})
                    )
            while True:
                yield _with_topic(topic, json.loads(await websocket.recv()))
        except ConnectionClosed as error:
            raise _explain(error) from None
        except ValueError:
            raise self._http.not_pushd() from None
        finally:
            self._open.discard(websocket)
            await websocket.close()

    async def close(self) -> None:
        """Close all connections that are open."""
        await asyncio.gather(*(websocket.close() for websocket in self._open))

    async def _connect(
        self, positions: Mapping[str, str | None], topic: str | None
    ) -> ClientConnection:
        if topic is None:
            path, query = "/topics", {}
        else:
            after = positions[topic]
            path, query = topic_path(topic), dict(self._query)
            if after is not None:
                query["after"] = after
        url = "ws" + self._http.url.removeprefix("http") + path
        socket_path = self._http.socket_path
        opening = connect if socket_path is None else partial(unix_connect, socket_path)
        try:
            return await opening(
                uri=url + (f"?{urlencode(query)}" if query else ""),
                subprotocols=[_SUBPROTOCOL],
                additional_headers=await self._authorize(),
                proxy=None,
                open_timeout=self._timeout,
                close_timeout=_CLOSE_TIMEOUT,
                # The server limits what is published.
                max_size=None,
                ssl=self._http.context,
            )
        except InvalidStatus as error:
            response = error.response
            wait = response.headers.get("Retry-After")
            body = bytes(response.body or b"")
            raise read_refusal(response.status_code, response.reason_phrase, wait, body) from None
        except TimeoutError:
            raise Unreachable(f"{self._http.name} does not respond in time") from None
        except (OSError, InvalidHandshake, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{self._http.name} does not respond: {reason}") from None


class EventStreams:
    """Subscribes over Server-Sent Events: one topic at its own URL, several at ``/topics``.

    :param json: whether publications that are JSON arrive as values, not as text.
    """

    def __init__(self, http: AsyncHttp, *, json: bool = False) -> None:
        self._http = http
        self._json = json

    async def __call__(self, positions: Mapping[str, str | None]) -> AsyncGenerator[Any, None]:
        """Subscribe, and yield each event as the JSON value that a WebSocket would receive."""
        topic = _only(positions)
        query = [("format", "json")] if self._json else []
        if topic is None:
            path = "/topics"
            query += [("topic", _at(name, after)) for name, after in positions.items()]
        else:
            path, after = topic_path(topic), positions[topic]
            query += [] if after is None else [("after", after)]
        path += f"?{urlencode(query, safe='/:@')}" if query else ""
        async with aclosing(self._http.stream(path)) as events:
            async for event in events:
                try:
                    if topic is None or self._json:
                        value = json.loads(event[2])
                    else:
                        value = _read_event(*event)
                except ValueError:
                    raise self._http.not_pushd() from None
                yield _with_topic(topic, value)


def _only(positions: Mapping[str, str | None]) -> str | None:
    """Return the topic if it is the only one, else None."""
    return next(iter(positions)) if len(positions) == 1 else None


def _at(topic: str, after: str | None) -> str:
    return topic if after is None else f"{topic}@{after}"


def _with_topic(topic: str | None, value: Any) -> Any:
    """Return a message with its topic, which is left out if the connection has only one."""
    if topic is None or not isinstance(value, dict) or "subscribed" in value:
        return value
    return {"topic": topic, **value}


def _read_event(name: str, id: str, data: str) -> Any:
    """Return an event of a topic's stream as the JSON value that a WebSocket would receive."""
    match name:
        case "subscribed":
            return json.loads(data)
        case "base64":
            return {"id": id, "base64": data}
        case "json":
            found = json.loads(data)
            return found if isinstance(found, dict) else {"id": id, "data": found}
        case "":
            return {"id": id, "data": data}
    return {"id": id, "data": data, "event": name}


def _explain(error: ConnectionClosed) -> PushdError:
    """Return the exception for a WebSocket that was closed, or lost."""
    closing = error.rcvd
    if closing is None:
        return Unreachable("the connection was lost")
    if closing.code != _POLICY:
        return Unreachable(f"closed by the server: {closing.code} {closing.reason}".rstrip())
    if closing.reason == _TOKEN_EXPIRED:
        return Refused(401, closing.reason, "token", None)
    return Refused(403, closing.reason or NO_REASON, "connection", None)
