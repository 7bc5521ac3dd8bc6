"""Many topics over one request: what it may ask for, and how it is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from pushd.access.limits import Limits
from pushd.testing import Answer, Daemon
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase


class ManyTopicsTests(TopicTestCase):
    """``/topics`` at the public port."""

    def poll(self, query: str, status: int = 200, **headers: str) -> dict[str, Any]:
        """Poll once, without waiting; return the JSON of the answer."""
        answer = self.daemon.get(f"/topics?{query}&wait=0", headers or None)
        if answer is None:
            self.daemon.advance(0)
        assert answer is not None
        self.assertEqual(answer.status, status, answer.body)
        value: dict[str, Any] = json.loads(answer.body)
        return value

    def refused(self, query: str, where: str, status: int = 400, method: str = "GET") -> str:
        """Check that a request is refused; return the error."""
        answer = self.daemon.request(method, f"/topics{query}")
        assert isinstance(answer, Answer)
        value = json.loads(answer.body)
        self.assertEqual((answer.status, value.get("where")), (status, where), value)
        return str(value["error"])

    def test_bad_queries(self) -> None:
        """A mistake is named."""
        for query, where in (
            ("", "topic"),
            ("?topic=", "topic"),
            ("?topic=a+b", "topic"),
            ("?topic=a&topic=a", "topic"),
            ("?topic=a@x", "topic"),
            ("?topic=a&after=x", "after"),
            ("?topic=a&topic=b&after=e:1", "after"),
            ("?topic=a&wait=x", "wait"),
            ("?topic=a&format=text", "format"),
            ("?topic=a&envelope=yes", "envelope"),
            ("?topic=a&presence=", "presence"),
            ("?topic=a&heartbeat=99", "heartbeat"),
            ("?topic=a&client=a.b", "client"),
            ("?topic=a&delay=5", "delay"),
        ):
            self.assertTrue(self.refused(query, where))
        self.refused("?topic=a", "method", 405, "PUT")

    def test_limit(self) -> None:
        """A request may name as many topics as a connection may have."""
        self.daemon.stop()
        self.daemon = Daemon(limits=Limits(max_topics=2))
        self.addCleanup(self.daemon.stop)
        self.poll("topic=a&topic=b")
        error = self.refused("?topic=a&topic=b&topic=c", "topic")
        self.assertEqual(error, "a connection may have 2 topics at most (--max-topics); got 3")
