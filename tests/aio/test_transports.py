"""The transports of a subscription to several topics, against a server of the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import count
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.asyncio.server import ServerConnection, serve

from pushd.aio.http import AsyncHttp
from pushd.aio.transports import EventStreams, WebSockets
from pushd.errors import Refused, Unreachable
from pushd.testing import Daemon
from tests.support.loopback import Loopback


async def no_token() -> dict[str, str]:
    """Return no headers."""
    return {}


def make_http(url: str) -> AsyncHttp:
    """Return what makes requests to a server."""
    return AsyncHttp(url, authorize=no_token, timeout=5, context=None)


class WebSocketTests(SynchronousTestCase):
    """``WebSockets``."""

    def run_test(
        self,
        handler: Callable[[ServerConnection], Awaitable[None]],
        positions: dict[str, str | None],
        **options: Any,
    ) -> list[Any]:
        """Return what a subscription receives from a server until it raises, and the exception."""

        async def run() -> list[Any]:
            got: list[Any] = []
            async with (
                asyncio.timeout(30),
                serve(handler, "127.0.0.1", 0, subprotocols=["pushd.v1"]) as server,  # type: ignore[list-item] # a str
            ):
                http = make_http(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/base")
                websockets = WebSockets(http, no_token, timeout=5, **options)
                try:
                    async with aclosing(websockets(positions)) as values:
                        async for value in values:
                            got.append(value)
                except (Refused, Unreachable) as error:
                    got.append(error)
                await http.close()
            return got

        return asyncio.run(run())

    def test_several(self) -> None:
        """Several topics are asked for one by one, each with its last id."""
        asked: list[Any] = []

        async def handler(websocket: ServerConnection) -> None:
            assert websocket.request is not None
            self.assertEqual(websocket.request.path, "/base/topics")
            asked.extend([json.loads(await websocket.recv()) for _ in range(2)])
            await websocket.send('{"topic":"b","id":"e:1","data":"x"}')

        got = self.run_test(handler, {"a": None, "b": "e:0"}, json=True)
        self.assertEqual(
            asked,
            [
                {"subscribe": "a", "format": "json"},
                {"subscribe": "b", "format": "json", "after": "e:0"},
            ],
        )
        self.assertEqual(got[0], {"topic": "b", "id": "e:1", "data": "x"})
        self.assertIn("closed by the server: 1000", str(got[1]))

    def test_not_json(self) -> None:
        """A message that is not JSON is not pushd's."""

        async def handler(websocket: ServerConnection) -> None:
            await websocket.send("hello")

        [error] = self.run_test(handler, {"a": None})
        self.assertIn("does not respond as pushd does", str(error))

    def test_lost(self) -> None:
        """A connection that is lost is Unreachable."""

        async def handler(websocket: ServerConnection) -> None:
            websocket.transport.abort()

        [error] = self.run_test(handler, {"a": None})
        self.assertIsInstance(error, Unreachable)

    def test_closed(self) -> None:
        """A Close with 1008 is a refusal, which names the token if that has expired."""
        for reason, status, text in (
            ("token expired", 401, "token: token expired (401)"),
            ("closed by an operator", 403, "connection: closed by an operator (403)"),
            ("", 403, "connection: the server gave no reason (403)"),
        ):

            async def handler(websocket: ServerConnection, reason: str = reason) -> None:
                await websocket.close(1008, reason)

            [error] = self.run_test(handler, {"a": None, "b": None})
            assert isinstance(error, Refused)
            self.assertEqual((error.status, str(error)), (status, text))


class EventStreamTests(SynchronousTestCase):
    """``EventStreams``."""

    def run_test(self, canned: bytes, positions: dict[str, str | None], **options: Any) -> Any:
        """Return what a subscription receives, and the head of its request."""

        async def run() -> Any:
            async with asyncio.timeout(30), Loopback(daemon) as loopback:
                loopback.canned = (
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
                    b"Content-Type: text/event-stream\r\n\r\n" + canned
                )
                http = make_http(loopback.url)
                got = [value async for value in EventStreams(http, **options)(positions)]
                await http.close()
                return got, loopback.heads[0]

        with Daemon({}) as daemon:
            return asyncio.run(run())

    def test_several(self) -> None:
        """Several topics are in the query, each with its last id; each event names its topic."""
        got, head = self.run_test(
            b'event: subscribed\ndata: {"subscribed":"a"}\n\n'
            b'id: cursor\nevent: paid\ndata: {"topic":"b/c","id":"e:1","data":"x"}\n\n',
            {"a": None, "b/c": "e:0"},
            json=True,
        )
        self.assertIn("GET /topics?format=json&topic=a&topic=b/c@e:0 HTTP", head)
        expected = [{"subscribed": "a"}, {"topic": "b/c", "id": "e:1", "data": "x"}]
        self.assertEqual(got, expected)

    def test_cut(self) -> None:
        """An event that is cut off in the middle is dropped."""
        got, _ = self.run_test(b"id: e:1\ndata: x\n\nid: e:2\ndata: y\n", {"t": None})
        self.assertEqual(got, [{"topic": "t", "id": "e:1", "data": "x"}])

    def test_parts(self) -> None:
        """Events may arrive in any parts."""
        daemon = Daemon({})
        self.addCleanup(daemon.stop)

        async def run() -> list[Any]:
            async with asyncio.timeout(30), Loopback(daemon) as loopback:
                http = make_http(loopback.url)
                async with aclosing(EventStreams(http)({"t": None})) as values:
                    got = [await anext(values)]
                    for number in count():
                        if number == 3:
                            break
                        daemon.publish("t", f"{number}\n" * 1000)
                        got.append(await anext(values))
                await http.close()
                return got

        got = asyncio.run(run())
        self.assertEqual([one["data"][:2] for one in got[1:]], ["0\n", "1\n", "2\n"])
