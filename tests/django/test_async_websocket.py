"""The WebSocket of an ``async def`` view."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.asgi import publish
from pushd.django.async_websocket import AsyncWebSocket
from pushd.gateways.asgi.scope import Message
from pushd.testing import NORMAL, Closing
from pushd.topics.rules import Rule, Rules
from tests.support.django_asgi_case import DjangoAsgiTestCase
from tests.support.django_site import recorded


class MessageTests(DjangoAsgiTestCase):
    """Messages in both directions."""

    def test_kinds(self) -> None:
        """Text is str and binary is bytes, in both directions; iteration ends at the end."""
        browser = self.serve().connect("/async-echo/")
        browser.send("é")
        browser.send(b"\xff")
        browser.close()
        self.assertEqual(browser.messages, ["é", b"\xff"])
        self.assertEqual(recorded, ["é", b"\xff"])
        self.assertEqual(browser.closing, NORMAL)

    def test_send(self) -> None:
        """Bytes are sent as text unless binary is asked for; a mistake changes nothing."""

        async def view(request: Any) -> None:
            websocket = request.websocket
            await websocket.send("é".encode())
            await websocket.send(bytearray(b"a"))
            await websocket.send(memoryview(b"b"), binary=True)
            for wrong, more, kind in (
                (b"\xff", {}, ValueError),
                (3, {}, TypeError),
                (None, {}, TypeError),
                ("text", {"binary": True}, TypeError),
            ):
                try:
                    await websocket.send(wrong, **more)
                except kind:
                    recorded.append(kind)
            await websocket.send("on")

        self.assertEqual(self.open(view).messages, ["é", "a", b"b", "on"])
        self.assertEqual(recorded, [ValueError, TypeError, TypeError, TypeError])

    def test_wait(self) -> None:
        """A wait that times out returns None, and loses no message."""

        async def view(request: Any) -> None:
            recorded.append(await request.websocket.wait(timeout=2))
            recorded.append(await request.websocket.wait(2))

        browser = self.open(view)
        self.daemon.advance(2)
        browser.send("a")
        self.assertEqual(recorded, [None, "a"])

    def test_subprotocol(self) -> None:
        """If subprotocols are offered, the view accepts, and may choose one; but not another."""

        async def view(request: Any) -> None:
            websocket = request.websocket
            recorded.append((websocket.opened, websocket.subprotocol))
            await websocket.accept("b")
            await websocket.accept_connection()
            recorded.append((websocket.opened, websocket.subprotocol))
            try:
                await websocket.accept("a")
            except RuntimeError as error:
                recorded.append(str(error))

        self.assertEqual(self.open(view, subprotocols=["a", "b"]).subprotocol, "b")
        self.assertEqual(recorded[:2], [(False, None), (True, "b")])
        self.assertIn("has been answered", recorded[2])

    def test_first_use(self) -> None:
        """With subprotocols on offer, the first use opens the connection, without one."""

        async def view(request: Any) -> None:
            await request.websocket.send("hello")

        browser = self.open(view, subprotocols=["a"])
        self.assertEqual((browser.messages, browser.subprotocol), (["hello"], None))


class EndTests(DjangoAsgiTestCase):
    """The end of a conversation."""

    def test_leaves(self) -> None:
        """What had arrived is read, then None, then EOFError; what is sent or closed is ignored."""

        async def view(request: Any) -> None:
            websocket = request.websocket
            recorded.append(websocket.closed)
            await asyncio.sleep(1)
            await websocket.send("too late")
            recorded.extend([await websocket.wait(), await websocket.wait(), websocket.closed])
            recorded.append((websocket.close_code, websocket.close_reason))
            await websocket.send("bye")
            await websocket.close()
            recorded.append(await websocket.subscribe("a"))
            try:
                await websocket.wait()
            except EOFError:
                recorded.append("over")

        browser = self.open(view)
        browser.send("last")
        browser.close(4001, "bye")
        self.daemon.advance(1)
        self.assertEqual(recorded, [False, "last", None, True, (4001, "bye"), False, "over"])

    def test_close(self) -> None:
        """A view closes with a code and a reason; what arrived before can still be read."""

        async def view(request: Any) -> None:
            websocket = request.websocket
            for code, reason in ((1005, ""), (1000, "x" * 124)):
                try:
                    await websocket.close(code, reason)
                except ValueError:
                    recorded.append(code)
            await asyncio.sleep(1)
            await websocket.close(4000, "enough")
            await websocket.close(4001)
            recorded.extend([message async for message in websocket])
            recorded.append((websocket.is_closed(), websocket.close_code, websocket.close_reason))

        browser = self.open(view)
        browser.send("a")
        self.daemon.advance(1)
        self.assertEqual(browser.closing, Closing(4000, "enough"))
        self.assertEqual(recorded, [1005, 1000, "a", (True, 4000, "enough")])

    def test_ignores_end(self) -> None:
        """A view that goes on after the end is cancelled after the grace."""

        async def view(request: Any) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                recorded.append("ended")

        self.open(view).leave()
        self.daemon.advance(4.9)
        self.assertEqual(recorded, [])
        self.daemon.advance(0.1)
        self.assertEqual(recorded, ["ended"])
        self.assertEqual(self.flushLoggedErrors(), [])


class TopicTests(DjangoAsgiTestCase):
    """Topics, past the view."""

    def test_subscribe(self) -> None:
        """A view can subscribe its browser to a topic, and unsubscribe it."""

        async def view(request: Any) -> None:
            websocket = request.websocket
            recorded.append(await websocket.subscribe("a"))
            await publish("a", "one")
            await websocket.wait()
            await websocket.unsubscribe("a")
            await publish("a", "two")

        browser = self.open(view)
        browser.send("enough")
        self.assertEqual((browser.messages, browser.closing), (["one"], NORMAL))
        self.assertEqual(recorded, [False])

    def test_presence(self) -> None:
        """A view can ask who is present at a topic, if that has presence."""

        async def view(request: Any) -> None:
            try:
                await request.websocket.presence("a")
            except ValueError as error:
                recorded.append(str(error))
            recorded.append(await request.websocket.presence("b"))

        self.open(view, rules=Rules([Rule(match="b", presence=True)]))
        self.assertIn("no presence", recorded[0])
        self.assertEqual(recorded[1].count, 0)


class OtherServerTests(SynchronousTestCase):
    """Another server for ASGI, without pushd's extension."""

    def run_with(self, use: Any, *events: Message, gone: bool = False) -> list[Message]:
        """Use a WebSocket that receives some events; return what it sends."""
        left, sent = list(events), list[Message]()

        async def receive() -> Any:
            return left.pop(0)

        async def send(event: Message) -> None:
            if gone:
                raise OSError("gone")
            sent.append(event)

        asyncio.run(use(AsyncWebSocket({"type": "websocket"}, receive, send)))
        return sent

    def test_no_topics(self) -> None:
        """Topics need pushd."""

        async def use(websocket: AsyncWebSocket) -> None:
            await websocket.subscribe("a")

        with self.assertRaisesRegex(RuntimeError, "no topics: use twistd pushd --asgi"):
            self.run_with(use)

    def test_events(self) -> None:
        """A disconnect without a code is 1005; either of text and bytes may be None."""
        received: list[Any] = []

        async def use(websocket: AsyncWebSocket) -> None:
            received.extend([message async for message in websocket])
            received.append((websocket.close_code, websocket.close_reason))

        sent = self.run_with(
            use,
            {"type": "websocket.receive", "bytes": b"a", "text": None},
            {"type": "websocket.disconnect"},
        )
        self.assertEqual(received, [b"a", (1005, "")])
        self.assertEqual([one["type"] for one in sent], ["websocket.accept"])

    def test_gone(self) -> None:
        """A client that has left before the handshake was accepted raises nothing."""

        async def use(websocket: AsyncWebSocket) -> None:
            await websocket.send("a")
            self.assertIsNone(await websocket.wait())

        self.run_with(use, {"type": "websocket.disconnect", "code": 1006}, gone=True)
