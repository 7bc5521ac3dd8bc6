"""Topics for an ASGI application, by the extension of its scope."""

from __future__ import annotations

from typing import Any

from pushd.gateways.asgi.scope import Receive, Scope, Send
from tests.support.asgi_case import AsgiTestCase, body, start


class ExtensionTests(AsgiTestCase):
    """The extension ``pushd``."""

    def test_publish(self) -> None:
        """A page publishes, gets the id, and can tell the last id."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            topics = scope["extensions"]["pushd"]
            told.append(await topics["publish"]("news", {"a": 1}, event="x"))
            told.append(await topics["last_id"]("news"))
            told.append(await topics["publish"]("news", "later", delay=5))
            await send(start())
            await send(body())

        self.serve(application)
        browser = self.connect("/topics/news")
        self.ask()
        self.assertEqual(browser.messages, ['{"a":1}'])
        self.assertEqual(str(told[0]), str(told[1]))
        self.daemon.advance(5)
        self.assertEqual(browser.messages[1:], ["later"])

    def test_subscribe(self) -> None:
        """A WebSocket is sent what is published to a topic, past the application."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await receive()
            await send({"type": "websocket.accept"})
            topics = scope["extensions"]["pushd"]
            told.append(await topics["subscribe"]("news"))
            await receive()
            await topics["unsubscribe"]("news")
            told.append(await topics["revoke"](subject="nobody"))
            await receive()

        self.serve(application)
        browser = self.connect()
        self.daemon.publish("news", "a")
        browser.send("stop")
        self.daemon.publish("news", "b")
        self.assertEqual(browser.messages, ["a"])
        self.assertEqual(told, [False, 0])

    def test_presence(self) -> None:
        """A topic without presence raises."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await scope["extensions"]["pushd"]["presence"]("news")

        self.serve(application)
        self.assertEqual(self.ask().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
