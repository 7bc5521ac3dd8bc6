"""The examples, in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from examples import chat, echo, progress
from pushd.access.closing import NORMAL
from pushd.testing import Answer, Browser, Daemon
from pushd.views.request import View

EXAMPLES = Path(__file__).parent.parent / "examples"
WEB = EXAMPLES / "web"


class ExampleTestCase(SynchronousTestCase):
    """A daemon with one example."""

    views: Mapping[str, View]

    def setUp(self) -> None:
        self.daemon = Daemon(self.views, web=WEB)
        self.addCleanup(self.daemon.stop)

    def get(self, path: str) -> Answer:
        """Request a page."""
        answer = self.daemon.get(path)
        assert answer is not None
        return answer

    def assert_page(self, path: str, name: str) -> None:
        """Check that a URL answers with a page, and that everything the page loads exists."""
        answer = self.get(path)
        self.assertEqual((answer.status, answer.body), (200, (WEB / name).read_bytes()))
        self.assertIn("default-src 'self'", answer.headers["Content-Security-Policy"])
        asked = [part.partition('"')[0] for part in answer.text.split('="/')[1:]]
        self.assertIn(name.replace(".html", ".js"), asked)
        for file in asked:
            self.assertEqual(self.get(f"/{file}").status, 200, file)

    def assert_left_nothing(self) -> None:
        """Check that no timer is left."""
        self.assertEqual(self.daemon.pending_calls, [])


class EchoTests(ExampleTestCase):
    views = echo.views

    def test_page(self) -> None:
        """HTTP gets the page."""
        self.assert_page("/echo/", "echo.html")

    def test_echo(self) -> None:
        """Text is echoed as text, bytes as bytes, in order; a Close is answered."""
        browser = self.daemon.connect("/echo/")
        said: list[str | bytes] = ["hello", b"\x00\xff", "", "žluťoučký 🐎", b""]
        for message in said:
            browser.send(message)
        self.assertEqual(browser.messages, said)
        browser.close(3000)
        self.assertTrue(browser.gone)
        self.assert_left_nothing()

    def test_slow_browser(self) -> None:
        """A client that sends and does not read delays only itself, and loses nothing."""
        browser = self.daemon.connect("/echo/")
        browser.stall()
        said = [f"{number} {'x' * 10_000}" for number in range(50)]
        for message in said:
            browser.send(message)
        self.assertEqual(browser.messages, [])
        browser.resume()
        self.assertEqual(browser.messages, said)


class ChatTests(ExampleTestCase):
    views = chat.views

    def test_page(self) -> None:
        """Every room has the page, and the root redirects to the lobby."""
        self.assert_page("/chat/lobby/", "chat.html")
        self.assert_page("/chat/caf%C3%A9/", "chat.html")
        answer = self.get("/")
        self.assertEqual((answer.status, answer.headers["Location"]), (302, "/chat/lobby/"))

    def test_room(self) -> None:
        """Clients in a room receive its messages, and who enters and leaves."""
        ann, bob = self._enter("caf%C3%A9", "ann"), self._enter("caf%C3%A9", "bob")
        bob.send("hello <b>ann</b>")
        self.assertEqual(
            _news(ann),
            [
                {"name": "ann", "event": "enters"},
                {"name": "bob", "event": "enters"},
                {"name": "bob", "text": "hello <b>ann</b>"},
            ],
        )
        self.assertEqual(_news(bob), _news(ann)[1:])
        bob.close()
        self.assertEqual(_news(ann)[3:], [{"name": "bob", "event": "leaves"}])

    def test_other_room(self) -> None:
        """Messages stay in their room."""
        ann, eve = self._enter("lobby", "ann"), self._enter("cellar", "eve")
        ann.send("secret")
        self.assertEqual(_news(eve), [{"name": "eve", "event": "enters"}])

    def test_vanished(self) -> None:
        """A client that drops its connection has left; an empty room is removed."""
        ann, bob = self._enter("lobby", "ann"), self._enter("lobby", "bob")
        ann.leave()
        self.assertEqual(_news(bob)[1:], [{"name": "ann", "event": "leaves"}])
        self.assertEqual(len(chat.rooms), 1)
        bob.leave()
        self.assertEqual(len(chat.rooms), 0)
        self.assert_left_nothing()

    def test_slow_browser(self) -> None:
        """A client that does not read delays no other."""
        ann, bob = self._enter("lobby", "ann"), self._enter("lobby", "bob")
        bob.stall()
        for _ in range(200):
            ann.send("x" * 1000)
        self.assertEqual(len(ann.messages), 202)

    def test_limits(self) -> None:
        """Missing names, long names and messages, and bytes are handled."""
        ann = self._enter("lobby", "")
        bob = self._enter("lobby", "b" * 31)
        bob.send(b"\xff\x00")
        bob.send("x" * 1001)
        self.assertEqual(
            _news(ann),
            [
                {"name": "anonymous", "event": "enters"},
                {"name": "b" * 30, "event": "enters"},
                {"name": "b" * 30, "text": "x" * 1000},
            ],
        )

    def _enter(self, room: str, name: str) -> Browser:
        return self.daemon.connect(f"/chat/{room}/?name={name}")


class ProgressTests(ExampleTestCase):
    views = progress.views

    def setUp(self) -> None:
        super().setUp()
        # The job's own sleep is the only thing here that would take time.
        self.patch(progress, "ROUNDS", 1)

    def test_page(self) -> None:
        """HTTP gets the page."""
        self.assert_page("/progress/", "progress.html")

    def test_job(self) -> None:
        """The client receives every step, the result with the last one, and then a Close."""
        browser = self.daemon.connect("/progress/?word=caf%C3%A9")
        news = _news(browser)
        self.assertEqual([one["done"] for one in news], list(range(1, progress.STEPS + 1)))
        self.assertEqual({one["of"] for one in news}, {progress.STEPS})
        self.assertEqual({one["key"] for one in news[:-1]}, {None})
        self.assertEqual(news[-1]["key"], list(progress.stretch("café"))[-1])
        self.assertEqual(browser.closing, NORMAL)
        self.assert_left_nothing()

    def test_key(self) -> None:
        """Each word has its key."""
        keys = [_news(self.daemon.connect(f"/progress/?word={word}"))[-1]["key"] for word in "abb"]
        self.assertNotEqual(keys[0], keys[1])
        self.assertEqual(keys[1], keys[2])


def _news(browser: Browser) -> list[dict[str, Any]]:
    return [json.loads(message) for message in browser.messages]
