"""``/publications``: what a topic has kept."""

from __future__ import annotations

import json
from typing import Any

from tests.support.topic_clients import TopicTestCase


class PublicationListTests(TopicTestCase):
    """The newest publications of a topic."""

    def read(self, query: str) -> Any:
        """Return what is listed."""
        answer = self.control("GET", f"/publications?{query}")
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(answer.headers["Content-Type"], "application/json")
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        return json.loads(answer.body)

    def test_newest(self) -> None:
        """The newest come first, ten unless the request says otherwise."""
        ids = self.publish_many("a/b", [f"text {number}" for number in range(12)])
        listed = self.read("topic=a/b")
        self.assertEqual((listed["topic"], listed["history"]), ("a/b", 12))
        expected = [{"id": ids[n], "data": f"text {n}"} for n in range(11, 1, -1)]
        self.assertEqual(listed["publications"], expected)
        self.assertEqual(self.read("topic=a/b&limit=1")["publications"], expected[:1])
        self.assertEqual(len(self.read("topic=a/b&limit=1000")["publications"]), 12)

    def test_kinds(self) -> None:
        """Each has its event; bytes are base64, and JSON is its text, as it was published."""
        self.publish("t", b"\0\1")
        self.publish("t", '{"a":  1}', is_json=True)
        self.publish("t", "x", event="news")
        shown = [
            {name: member for name, member in one.items() if name != "id"}
            for one in self.read("topic=t")["publications"]
        ]
        self.assertEqual(shown[0], {"event": "news", "data": "x"})
        self.assertEqual(shown[1:], [{"data": '{"a":  1}'}, {"base64": "AAE="}])

    def test_none(self) -> None:
        """A topic without a history has none, and does not begin to exist by the question."""
        self.assertEqual(self.read("topic=t"), {"topic": "t", "history": 0, "publications": []})
        self.assertIsNone(self.describe("t")["id"])

    def test_nothing_kept(self) -> None:
        """A topic that keeps nothing has none, although it has a last id."""
        self.keep(size=0)
        self.publish("t", "x")
        self.assertEqual(self.read("topic=t")["publications"], [])

    def test_refused(self) -> None:
        """A mistake is refused with the name of the part that is wrong."""
        for query, where in (
            ("", "topic"),
            ("topic=a//b", "topic"),
            ("topic=t&limit=0", "limit"),
            ("topic=t&limit=1001", "limit"),
            ("topic=t&since=1", "since"),
        ):
            answer = self.control("GET", f"/publications?{query}")
            self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, where), query)
        self.assertEqual(self.control("POST", "/publications?topic=t").status, 405)

    def test_public(self) -> None:
        """The public port does not serve it."""
        answer = self.daemon.get("/publications?topic=t")
        assert answer is not None
        self.assertEqual(answer.status, 404)
