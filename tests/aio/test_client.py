"""The asyncio client against a daemon in memory: publishing, subscriptions, and how they end."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import pushd.aio
from pushd.aio import Began, Broken, Client, Message, Refused, Unreachable, subscription
from pushd.testing import Daemon
from tests.support.keyring import secret_keys, token
from tests.support.loopback import Loopback

TRANSPORTS = ("websocket", "sse")

Test = Callable[[Loopback, Client], Awaitable[object]]


class LoopbackTestCase(SynchronousTestCase):
    """Runs coroutines with a daemon in memory, which is reached over sockets."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.patch(subscription, "_SHORTEST", 0.01)
        self.start()

    def start(self, **settings: Any) -> None:
        """Start a daemon with other settings."""
        self.daemon = Daemon({}, **settings)
        self.addCleanup(self.daemon.stop)

    def run_test(self, test: Callable[[Loopback], Awaitable[object]]) -> None:
        """Run a test while the daemon can be reached."""

        async def run() -> None:
            async with asyncio.timeout(30), Loopback(self.daemon) as loopback:
                await test(loopback)

        asyncio.run(run())

    def run_with_client(self, test: Test, **options: Any) -> None:
        """Run a test with a client of the daemon."""

        async def run(loopback: Loopback) -> None:
            async with Client(loopback.url, control=loopback.control, **options) as client:
                await test(loopback, client)

        self.run_test(run)


async def take(events: AsyncGenerator[Any, None], count: int) -> list[Any]:
    """Return the next events of a subscription."""
    return [await anext(events) for _ in range(count)]


class PublishTests(LoopbackTestCase):
    """Requests to the control port."""

    def test_publish(self) -> None:
        """It publishes text, bytes and JSON, with events, and gets the ids."""
        browser = self.daemon.connect("/topics/a/b", subprotocols=["pushd.v1"])

        async def test(loopback: Loopback, client: Client) -> None:
            first = await client.publish("a/b", "tschüß")
            self.assertEqual(first["subscribers"], 1)
            await client.publish("a/b", b"\xff", event="raw")
            await client.publish("a/b", {"n": 1}, idempotency_key="k")
            last = await client.publish("a/b", {"n": 1}, idempotency_key="k")
            self.assertEqual(await client.last_id("a/b"), last["id"])
            # One connection is enough.
            self.assertEqual(len(loopback.open), 1)

        self.run_with_client(test)
        said = [json.loads(message) for message in browser.messages[1:]]
        self.assertEqual([one.get("data") for one in said], ["tschüß", None, '{"n":1}'])
        self.assertEqual((said[1]["base64"], said[1]["event"]), ("/w==", "raw"))

    def test_scheduled(self) -> None:
        """With a time, the publication is made later."""

        async def test(loopback: Loopback, client: Client) -> None:
            said = await client.publish("t", "x", every=0.5, count=2)
            self.assertEqual(said["count"], 2)
            self.daemon.advance(0.5, 0.5)
            self.assertEqual((await client.last_id("t"))[-2:], ":2")

        self.run_with_client(test)

    def test_at(self) -> None:
        """So at a time of day; a schedule is listed, and cancelled."""

        async def test(loopback: Loopback, client: Client) -> None:
            due = (await client.publish("t", "x", delay=60))["due"]
            said = await client.publish("t", "x", at=datetime.fromisoformat(due))
            self.assertEqual(said["due"], due)
            self.assertEqual((await client.schedules())[1], said)
            await client.cancel(said["schedule"])
            self.assertEqual(len(await client.schedules()), 1)

        self.run_with_client(test)

    def test_publish_all(self) -> None:
        """A batch is published with one request."""

        async def test(loopback: Loopback, client: Client) -> None:
            said = await client.publish_all(
                [
                    {"topic": "a", "data": "x", "event": "e", "idempotency_key": "k"},
                    {"topic": "b", "data": b"y"},
                    {"topic": "b", "data": [1]},
                ]
            )
            self.assertEqual([one["id"][-2:] for one in said], [":1", ":1", ":2"])
            with self.assertRaises(TypeError):
                await client.publish_all([{"topic": "a", "data": 1}])

        self.run_with_client(test)

    def test_refused(self) -> None:
        """If pushd refuses, the exception has the status and the part that is wrong."""

        async def test(loopback: Loopback, client: Client) -> None:
            with self.assertRaises(Refused) as caught:
                await client.publish("a b", "x")
            self.assertEqual((caught.exception.status, caught.exception.where), (400, "topic"))
            with self.assertRaises(ValueError):
                await client.publish("a/../b", "x")

        self.run_with_client(test)

    def test_not_pushd(self) -> None:
        """A server that is no pushd is Unreachable, and so is a port that is closed."""

        async def test(loopback: Loopback) -> None:
            for answer in (b"[]", b"{}", b"no JSON"):
                loopback.canned = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
                loopback.canned %= (len(answer), answer)
                async with Client(loopback.url, control=loopback.control) as client:
                    with self.assertRaisesRegex(Unreachable, "does not respond as pushd does"):
                        await client.last_id("t")
            async with Client(control="http://127.0.0.1:1") as client:
                with self.assertRaisesRegex(Unreachable, "http://127.0.0.1:1 does not respond"):
                    await client.publish("t", "x")

        self.run_test(test)

    def test_silent(self) -> None:
        """A server that does not answer in time is Unreachable."""

        async def test(loopback: Loopback, client: Client) -> None:
            loopback.canned = b""
            with self.assertRaisesRegex(Unreachable, "does not respond in time"):
                await client.publish("t", "x")
            for transport in TRANSPORTS:
                async with Client(loopback.url, timeout=0.05, transports=[transport]) as other:
                    with self.assertRaisesRegex(Unreachable, "does not respond in time"):
                        await anext(other.subscribe("t"))

        self.patch(pushd.aio.http, "_SILENCE", 0.05)
        self.run_with_client(test, timeout=0.05)

    def test_bad_key(self) -> None:
        """A key that cannot be in a header is an error before anything is sent."""

        async def test(loopback: Loopback, client: Client) -> None:
            for key in ("a\nb", "€"):
                with self.assertRaises(pushd.aio.PushdError) as caught:
                    await client.publish("t", "x", idempotency_key=key)
                self.assertNotIsInstance(caught.exception, Unreachable)

        self.run_with_client(test)


class SubscribeTests(LoopbackTestCase):
    """Subscriptions to one topic, over both transports."""

    def both(self, test: Test, **options: Any) -> None:
        """Run a test over each transport alone."""
        for transport in TRANSPORTS:
            self.start()
            self.run_with_client(test, transports=[transport], **options)

    def subscribers(self) -> dict[str, int]:
        """Return the subscribers of the topic by transport."""
        answer = self.daemon.request("GET", "/topics/t", control=True)
        assert answer is not None
        counts: dict[str, int] = json.loads(answer.text)["subscribers"]
        return counts

    def test_messages(self) -> None:
        """It yields text, bytes, JSON and events as they were published."""

        async def test(loopback: Loopback, client: Client) -> None:
            after = await client.last_id("a/b")
            for data in ("one\ntwo", "a\rb", b"\xff", {"n": 1}):
                self.daemon.publish("a/b", data)
                self.daemon.publish("a/b", data, event="named")
            events = client.subscribe("a/b", after=after)
            got = await take(events, 8)
            expected = ["one\ntwo", "a\rb", b"\xff", '{"n":1}']
            self.assertEqual([one.data for one in got], [x for x in expected for _ in range(2)])
            self.assertEqual([one.event for one in got], [None, "named"] * 4)
            self.assertEqual({one.topic for one in got}, {"a/b"})
            self.assertEqual(got[-1].id, await client.last_id("a/b"))
            await events.aclose()

        self.both(test)

    def test_json(self) -> None:
        """With json=True, publications that are JSON are values, and text stays text."""

        async def test(loopback: Loopback, client: Client) -> None:
            after = await client.last_id("t")
            expected: list[Any] = [{"n": [1]}, "text", b"\xff"]
            for data in expected:
                self.daemon.publish("t", data)
            events = client.subscribe("t", after=after, json=True)
            self.assertEqual([one.data for one in await take(events, 3)], expected)
            await events.aclose()

        self.both(test)

    def test_break(self) -> None:
        """After a cut it resumes: nothing is missed, and nothing comes twice."""

        async def test(loopback: Loopback, client: Client) -> None:
            events = client.follow("t")
            [began] = await take(events, 1)
            self.assertEqual((began.topic, began.recovered), ("t", False))
            first = self.daemon.publish("t", "1")
            self.assertEqual(await take(events, 1), [Message("t", str(first), "1")])
            await loopback.cut()
            self.daemon.publish("t", "2")
            broken, began, message = await take(events, 3)
            assert isinstance(broken, Broken)
            self.assertTrue(broken.reason)
            self.assertEqual(began, Began("t", str(first), True))
            self.assertEqual(message.data, "2")
            await events.aclose()

        self.both(test)

    def test_only_messages(self) -> None:
        """``subscribe`` yields messages only, across a cut as well."""

        async def test(loopback: Loopback, client: Client) -> None:
            after = await client.last_id("t")
            self.daemon.publish("t", "1")
            events = client.subscribe(["t"], after={"t": after})
            got = await take(events, 1)
            await loopback.cut()
            self.daemon.publish("t", "2")
            got += await take(events, 1)
            self.assertEqual([one.data for one in got], ["1", "2"])
            await events.aclose()

        self.both(test)

    def test_loop_left(self) -> None:
        """When a loop is left, the connection is closed."""

        async def test(loopback: Loopback, client: Client) -> None:
            after = await client.last_id("t")
            self.daemon.publish("t", "1")
            async for message in client.subscribe("t", after=after):
                self.assertEqual(message.data, "1")
                break
            while self.subscribers():
                await asyncio.sleep(0.001)

        self.both(test)

    def test_close(self) -> None:
        """Subscriptions end when the client is closed."""

        async def test(loopback: Loopback, client: Client) -> None:
            async def consume() -> list[Any]:
                return [event async for event in client.follow("t")]

            task = asyncio.create_task(consume())
            while not self.subscribers():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            await client.close()
            self.assertEqual([type(one) for one in await task], [Began])

        self.both(test)

    def test_close_at_first(self) -> None:
        """A subscription ends, too, if its first connection is not open yet."""

        async def test(loopback: Loopback, client: Client) -> None:
            loopback.canned = b""
            end = asyncio.ensure_future(anext(client.subscribe("t"), None))
            while not loopback.heads:
                await asyncio.sleep(0.001)
            await client.close()
            self.assertIsNone(await end)

        self.run_with_client(test, transports=["sse"])

    def test_close_in_pause(self) -> None:
        """A subscription that is about to reconnect ends at once when the client is closed."""
        self.patch(subscription, "uniform", lambda low, high: 1000)

        async def test(loopback: Loopback, client: Client) -> None:
            events = client.follow("t")
            await take(events, 1)
            await loopback.cut()
            [broken] = await take(events, 1)
            self.assertEqual(broken.seconds, 1000)
            end = asyncio.ensure_future(anext(events, None))
            await asyncio.sleep(0.01)
            await client.close()
            self.assertIsNone(await end)

        self.both(test)

    def test_refused(self) -> None:
        """A topic or id that is not valid raises Refused."""

        async def test(loopback: Loopback, client: Client) -> None:
            for topic, after, where in (("a b", None, "topic"), ("t", "x", "after")):
                with self.assertRaises(Refused) as caught:
                    await anext(client.subscribe(topic, after=after))
                self.assertEqual((caught.exception.status, caught.exception.where), (400, where))

        self.both(test)

    def test_unreachable(self) -> None:
        """If the first connection fails, it raises Unreachable."""

        async def test(loopback: Loopback) -> None:
            for transport in TRANSPORTS:
                async with Client("http://127.0.0.1:1", transports=[transport]) as client:
                    with self.assertRaisesRegex(Unreachable, "does not respond"):
                        await anext(client.subscribe("t"))

        self.run_test(test)

    def test_not_pushd(self) -> None:
        """A server that is no pushd is Unreachable."""
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "

        async def test(loopback: Loopback, client: Client) -> None:
            for canned in (
                b"text/html\r\n\r\n<p>a page",
                b"text/event-stream\r\n\r\nevent: json\ndata: {\n\n",
                b"text/event-stream\r\n\r\nevent: subscribed\ndata: {}\n\n",
                b'text/event-stream\r\n\r\nevent: subscribed\ndata: {"subscribed":"t"}\n\n',
                b"text/event-stream\r\n\r\ndata: \xff\n\n",
                b"text/event-stream\r\n\r\n",
            ):
                loopback.canned = head + canned
                with self.assertRaises(Unreachable):
                    await anext(client.subscribe("t"))

        self.run_with_client(test, transports=["sse"])

    def test_closed_by_operator(self) -> None:
        """A connection that an operator closes with 1008 ends the subscription."""

        async def test(loopback: Loopback, client: Client) -> None:
            events = client.follow("t")
            await take(events, 1)
            answer = self.daemon.request("DELETE", "/connections/1", control=True)
            assert answer is not None
            self.assertEqual(answer.status, 204)
            with self.assertRaisesRegex(Refused, "closed by an operator"):
                await anext(events)

        self.run_with_client(test)

    def test_going_away(self) -> None:
        """If the server closes with another code, it reconnects."""

        async def test(loopback: Loopback, client: Client) -> None:
            events = client.follow("t")
            await take(events, 1)
            self.daemon.request("DELETE", "/connections/1?code=1001", control=True)
            broken, began = await take(events, 2)
            self.assertIn("closed by the server: 1001", broken.reason)
            self.assertTrue(began.recovered)
            await events.aclose()

        self.run_with_client(test)


class FallbackTests(LoopbackTestCase):
    """Where WebSockets do not work."""

    def test_fallback(self) -> None:
        """An event stream takes the place of a WebSocket that a proxy does not pass on."""

        async def test(loopback: Loopback, client: Client) -> None:
            loopback.no_websockets = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
            events = client.follow("t")
            await take(events, 1)
            await loopback.cut()
            loopback.no_websockets = None
            self.daemon.publish("t", "x")
            got = await take(events, 3)
            self.assertEqual(got[2].data, "x")
            accepted = ["text/event-stream" in head.lower() for head in loopback.heads]
            # The first request was for a WebSocket. Where that has failed, it is not tried again.
            self.assertEqual(accepted, [False, True, True])
            await events.aclose()

        self.run_with_client(test)

    def test_back(self) -> None:
        """Some time after a fallback, a WebSocket is tried again."""
        self.patch(subscription, "_TRY_AGAIN", 0.0)

        async def test(loopback: Loopback, client: Client) -> None:
            loopback.no_websockets = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n"
            events = client.follow("t")
            await take(events, 1)
            await loopback.cut()
            loopback.no_websockets = None
            await take(events, 2)
            self.assertIn("Upgrade: websocket", loopback.heads[-1])
            await events.aclose()

        self.run_with_client(test)


class TokenTests(LoopbackTestCase):
    """Where a token is required."""

    def setUp(self) -> None:
        """Start a daemon that requires tokens."""
        super().setUp()
        self.start(token_keys=secret_keys())

    def test_token(self) -> None:
        """The token is sent with each request; with one, it publishes at the public port."""

        async def test(loopback: Loopback) -> None:
            given = token(subscribe=["t"], publish=["t"])
            for transport in TRANSPORTS:
                async with Client(
                    loopback.url, control=loopback.url, token=f"{given}\n", transports=[transport]
                ) as client:
                    events = client.follow("t")
                    await take(events, 1)
                    await client.publish("t", "x")
                    [message] = await take(events, 1)
                    self.assertEqual(message.data, "x")
                    await events.aclose()
                    with self.assertRaises(Refused) as caught:
                        await anext(client.subscribe("other"))
                    self.assertEqual(caught.exception.status, 403)

        self.run_test(test)

    def test_function(self) -> None:
        """A function that returns tokens, plain or async, is asked again when one has expired."""
        for is_async in (False, True):
            for transport in TRANSPORTS:
                self.start(token_keys=secret_keys())
                self.renew(is_async, transport)

    def renew(self, is_async: bool, transport: str) -> None:
        """Let a token expire."""
        asked: list[str] = []

        def make() -> str:
            asked.append(token(subscribe=["t"], exp=int(self.daemon.clock.seconds()) + 100))
            return asked[-1]

        async def make_async() -> str:
            return make()

        async def test(loopback: Loopback, client: Client) -> None:
            events = client.follow("t")
            await take(events, 1)
            self.daemon.advance(200)
            _, began = await take(events, 2)
            self.assertTrue(began.recovered)
            self.assertEqual(len(asked), 2)
            await events.aclose()

        given = make_async if is_async else make
        self.run_with_client(test, token=given, transports=[transport])

    def test_function_refused(self) -> None:
        """If a fresh token is refused as well, the subscription ends."""
        asked: list[str] = []

        def make() -> str:
            asked.append("")
            return token(subscribe=["t"], exp=1)

        async def test(loopback: Loopback, client: Client) -> None:
            self.daemon.advance(100)
            events = client.follow("t")
            self.assertIsInstance(await anext(events), Broken)
            with self.assertRaises(Refused) as caught:
                await anext(events)
            self.assertEqual((caught.exception.status, len(asked)), (401, 2))

        self.run_with_client(test, token=make)


class ArgumentTests(SynchronousTestCase):
    """What the client and ``subscribe`` are given."""

    def test_url(self) -> None:
        """URLs come from the arguments or the environment, and must be valid."""
        self.patch(os, "environ", {"PUSHD_URL": "nowhere"})
        with self.assertRaisesRegex(ValueError, "got 'nowhere'"):
            Client()
        self.patch(os, "environ", {"PUSHD_CONTROL_URL": "ftp://x"})
        with self.assertRaisesRegex(ValueError, "got 'ftp://x'"):
            Client()

    def test_transports(self) -> None:
        """Transports must be known."""
        unknown: list[list[str]] = [[], ["longpoll"]]
        for transports in unknown:
            with self.assertRaisesRegex(ValueError, "transports must be"):
                Client(transports=transports)

    def test_tls(self) -> None:
        """With https, the certificates of the system are used, or the context that is given."""
        context = ssl.create_default_context()
        self.assertIs(Client("https://localhost", context=context)._public.context, context)
        self.assertIsNotNone(Client("https://localhost")._public.context)

    def test_topics(self) -> None:
        """Topics and ids must go together."""

        async def ask(topics: Any, after: Any) -> None:
            async with Client() as client:
                await anext(client.subscribe(topics, after=after))

        cases: list[tuple[Any, Any, str]] = [
            ([], None, "needs a topic"),
            ("a/../b", None, "must not have . or .."),
            (["a", "b"], "x:1", "must be a mapping"),
            (["a"], {"b": "x:1"}, "not subscribed to: b"),
        ]
        for topics, after, text in cases:
            with self.assertRaisesRegex(ValueError, text):
                asyncio.run(ask(topics, after))


class ImportTests(SynchronousTestCase):
    """The libraries of the extra."""

    def without(self, missing: str) -> None:
        """Import the package anew, without a module."""
        before = dict(sys.modules)
        self.addCleanup(sys.modules.update, before)
        for name in before:
            if name.startswith(("pushd.aio", missing)):
                del sys.modules[name]
        sys.modules[missing] = None  # type: ignore[assignment] # as the import system allows
        importlib.import_module("pushd.aio")

    def test_missing(self) -> None:
        """If a library is missing, one line says how to install it."""
        for name in ("httpx", "websockets"):
            with self.assertRaisesRegex(ImportError, f"needs {name}: pip install 'pushd"):
                self.without(name)
            self.doCleanups()

    def test_other(self) -> None:
        """Another import that fails raises as it is."""
        with self.assertRaisesRegex(ImportError, "pushd.aio.messages"):
            self.without("pushd.aio.messages")
