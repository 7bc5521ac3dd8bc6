"""``/topics`` at the control port: what is there."""

from __future__ import annotations

import json

from pushd.api import admin as topic_list
from tests.api.test_publish import PublishTestCase


class TopicListTests(PublishTestCase):
    """``/topics``."""

    def test_list(self) -> None:
        """Topics that are remembered or listened to, in the order of their names."""
        for topic in ("z", "a", "m/n"):
            self.publish(topic, "x")
        listing = json.loads(self.control("GET", "/topics").body)
        self.assertEqual([one["topic"] for one in listing["topics"]], ["a", "m/n", "t", "z"])
        self.assertEqual(listing["more"], False)
        self.assertEqual(listing["topics"][2], self.describe("t"))

    def test_more(self) -> None:
        """No more than a thousand, and whether there are more."""
        self.patch(topic_list, "_MAX_LIST", 2)
        for topic in ("z", "a"):
            self.publish(topic, "x")
        listing = json.loads(self.control("GET", "/topics").body)
        self.assertEqual([one["topic"] for one in listing["topics"]], ["a", "t"])
        self.assertEqual(listing["more"], True)

    def test_method(self) -> None:
        """It is there to be read."""
        answer = self.post("/topics")
        self.assert_wrong(answer, 405, "method")
        self.assertEqual(answer.headers["Allow"], "GET")

    def test_describe(self) -> None:
        """GET tells of the last id, the history and the subscribers, also where there are none."""
        self.assertEqual(
            self.describe("u"), {"topic": "u", "id": None, "history": 0, "subscribers": {}}
        )
        ids = self.publish_many("t", ["1", "2"])
        self.assertEqual(
            self.describe("t"),
            {"topic": "t", "id": ids[-1], "history": 2, "subscribers": {"websocket": 1}},
        )
