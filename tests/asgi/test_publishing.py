"""Publishing from coroutines without a scope."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pushd.asgi import last_id, publish
from pushd.errors import Unavailable
from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.testing import Daemon
from pushd.views import inprocess
from tests.support.asgi_case import AsgiTestCase, body, start


class PublishingTests(AsgiTestCase):
    """pushd.asgi."""

    def test_in_process(self) -> None:
        """In an application that pushd runs, it is a call within the process."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            told.append(await publish("news", "a"))
            told.append(await last_id("news"))
            handle = await publish("news", "b", delay=5)
            handle.cancel()
            await send(start())
            await send(body())

        self.serve(application)
        # One without a loop does not matter.
        other = Daemon({})
        self.addCleanup(other.stop)
        browser = self.connect("/topics/news")
        self.ask()
        self.assertEqual(str(told[0]), told[1])
        self.daemon.advance(5)
        self.assertEqual(browser.messages, ["a"])

    def test_elsewhere(self) -> None:
        """In another process, it is a request to the control port."""
        self.patch(os, "environ", {"PUSHD_CONTROL_URL": "http://127.0.0.1:1"})
        # Another test may have left a daemon running.
        self.patch(inprocess, "_running", [])
        for call in (publish("news", "a"), last_id("news")):
            with self.assertRaisesRegex(Unavailable, "PUSHD_CONTROL_URL"):
                asyncio.run(call)
