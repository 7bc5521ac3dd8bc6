"""The topics example, in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from examples import chat_topics
from pushd.errors import Unavailable
from pushd.testing import Browser, Daemon

WEB = Path(__file__).parent.parent / "examples" / "web"


class ChatTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.daemon = Daemon(chat_topics.views, web=WEB if WEB.is_dir() else None)
        self.addCleanup(self.daemon.stop)

    def test_room(self) -> None:
        """All clients in a room receive its messages in order, the sender included."""
        ann, bob, eve = (
            self._enter(room, name)
            for room, name in (("lobby", "ann"), ("lobby", "bob"), ("cellar", "eve"))
        )
        ann.send("hello <b>bob</b>")
        bob.send("hello, ann")
        said = [
            {"name": "ann", "text": "hello <b>bob</b>"},
            {"name": "bob", "text": "hello, ann"},
        ]
        self.assertEqual(_news(ann), said)
        self.assertEqual(_news(bob), said)
        self.assertEqual(eve.messages, [])

    def test_elsewhere(self) -> None:
        """The topic delivers what the view publishes, and the view what the topic publishes."""
        ann = self._enter("lobby", "ann")
        ann.send("hello")
        [topic] = self._ask("GET", "/topics", b"")["topics"]
        self.assertEqual((topic["topic"], topic["history"]), ("chat/lobby", 1))
        start = topic["id"].replace(":1", ":0")
        answer = self.daemon.get(f"/topics/chat/lobby?wait=0&after={start}")
        assert answer is not None
        [publication] = json.loads(answer.text)["publications"]
        self.assertEqual(publication["data"], ann.messages[0])
        self._ask("POST", "/topics/chat/lobby", b'{"name": "robot", "text": "hi"}')
        self.assertEqual(_news(ann)[1], {"name": "robot", "text": "hi"})

    def test_redis_away(self) -> None:
        """While the broker is unavailable, the sender gets an error, and stays connected."""
        ann, bob = self._enter("lobby", "ann"), self._enter("lobby", "bob")
        broker = self.daemon._service._broker
        away = self.patch(broker, "publish", lambda *_, **__: fail(Unavailable("Redis is away")))
        ann.send("hello")
        self.assertEqual(_news(ann), [{"name": "ann", "event": chat_topics.NOT_HEARD}])
        self.assertEqual(bob.messages, [])
        away.restore()
        ann.send("hello")
        self.assertEqual(_news(ann)[1:], [{"name": "ann", "text": "hello"}])
        self.assertEqual(_news(bob), [{"name": "ann", "text": "hello"}])

    def test_names(self) -> None:
        """A room whose name cannot be a topic is 404."""
        browser = self.daemon.connect("/chat/caf%C3%A9/?name=ann")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 404)
        self.assertIn("no room has this name", browser.refused.text)

    def test_limits(self) -> None:
        """Missing names, long names and messages, and bytes are handled."""
        ann, bob = self._enter("lobby", ""), self._enter("lobby", "b" * 31)
        bob.send(b"\xff\x00")
        bob.send("x" * 1001)
        ann.send("x")
        self.assertEqual(
            _news(ann),
            [{"name": "b" * 30, "text": "x" * 1000}, {"name": "anonymous", "text": "x"}],
        )

    def test_left(self) -> None:
        """When all have left, nothing is kept after the history has expired."""
        ann, bob = self._enter("lobby", "ann"), self._enter("lobby", "bob")
        ann.send("hello")
        ann.leave()
        bob.close()
        self.daemon.advance(*[100.0] * 7)
        self.assertEqual(self.daemon.pending_calls, [])
        self.assertEqual(self._ask("GET", "/topics", b"")["topics"], [])

    def test_front_door(self) -> None:
        """The root redirects to the lobby."""
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual((answer.status, answer.headers["Location"]), (302, "/chat/lobby/"))

    def _enter(self, room: str, name: str) -> Browser:
        return self.daemon.connect(f"/chat/{room}/?name={name}")

    def _ask(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        headers = {"Host": "127.0.0.1:8081"}
        answer = self.daemon.request(method, path, headers, body, control=True)
        assert answer is not None
        value: dict[str, Any] = json.loads(answer.text)
        return value


def _news(browser: Browser) -> list[dict[str, str]]:
    return [json.loads(message) for message in browser.messages]
