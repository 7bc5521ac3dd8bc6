"""``/rules`` of the control port."""

from __future__ import annotations

import json
from typing import Any

from pushd.topics.rules import Rule, Rules
from tests.support.keyring import secret_keys
from tests.support.topic_clients import TopicTestCase

DEFAULTS = {
    "match": None,
    "history-size": 100,
    "history-ttl": 300,
    "subscribe": "anyone",
    "publish": "nobody",
    "presence": False,
    "latest": False,
    "max-message": 1 << 20,
    "retain": False,
}


class RulesTests(TopicTestCase):
    """The rule of a topic, with the daemon's defaults where it has no value."""

    def rule(self, topic: str) -> dict[str, Any]:
        """Return the JSON of a topic's rule."""
        answer = self.control("GET", f"/rules?topic={topic}")
        self.assertEqual(answer.status, 200)
        rule = json.loads(answer.body)
        assert isinstance(rule, dict)
        return rule

    def test_defaults(self) -> None:
        """Without a rule that matches, the defaults of the daemon hold."""
        self.assertEqual(self.rule("news"), {"topic": "news", **DEFAULTS})
        self.start(token_keys=secret_keys(), max_message=1000)
        tokens = {"subscribe": "token", "publish": "token", "max-message": 1000}
        self.assertEqual(self.rule("news"), {"topic": "news", **DEFAULTS, **tokens})
        self.start(token_keys=secret_keys(), authorize=lambda *_: True)
        asked = {"subscribe": "authorize", "publish": "authorize"}
        self.assertEqual(self.rule("news"), {"topic": "news", **DEFAULTS, **asked})

    def test_rule(self) -> None:
        """The first rule that matches holds, also for a topic that does not exist."""
        one = Rule(match="chat/*", history_size=0, publish="anyone", presence=True, max_message=9)
        two = Rule(match="**", history_ttl=7, subscribe="nobody", latest=True, retain=True)
        self.start(rules=Rules([one, two]))
        self.assertEqual(
            self.rule("chat/7"),
            {
                "topic": "chat/7",
                **DEFAULTS,
                "match": "chat/*",
                "history-size": 0,
                "publish": "anyone",
                "presence": True,
                "max-message": 9,
            },
        )
        self.assertEqual(
            self.rule("a"),
            {
                "topic": "a",
                **DEFAULTS,
                "match": "**",
                "history-ttl": 7,
                "subscribe": "nobody",
                "latest": True,
                "retain": True,
            },
        )
        self.assertEqual(json.loads(self.control("GET", "/topics").body)["topics"], [])

    def test_all(self) -> None:
        """Without a topic, all rules are listed in their order, and last what holds for others."""
        self.start(rules=Rules([Rule(match="b/*", latest=True), Rule(match="a", history_size=1)]))
        listed = json.loads(self.control("GET", "/rules").body)["rules"]
        self.assertEqual(
            listed,
            [
                {**DEFAULTS, "match": "b/*", "latest": True},
                {**DEFAULTS, "match": "a", "history-size": 1},
                DEFAULTS,
            ],
        )

    def test_refused(self) -> None:
        """A request with an invalid topic, or with another parameter, is refused."""
        for query, where in (
            ("?topic=", "topic"),
            ("?topic=a%20b", "topic"),
            ("?topic=a&x=1", "x"),
        ):
            answer = self.control("GET", f"/rules{query}")
            self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, where))
        self.assertEqual(self.control("POST", "/rules?topic=a").status, 405)
