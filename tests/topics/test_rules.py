"""Rules for topics."""

from __future__ import annotations

from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase as TestCase

from pushd.topics import rules
from pushd.topics.rules import DEFAULT, Rule, Rules


class RulesTest(TestCase):
    """``Rules`` finds the rule of a topic."""

    def test_first_match(self) -> None:
        """The first rule that matches holds; without one, the default does."""
        exact, wide = Rule(match="chat/1", latest=True), Rule(match="chat/**", history_size=5)
        found = Rules((exact, wide))
        self.assertIs(found.find("chat/1"), exact)
        self.assertIs(found.find("chat/2"), wide)
        self.assertIs(found.find("chat/2"), wide)
        self.assertIs(found.find("chat"), DEFAULT)
        self.assertEqual(list(found), [exact, wide])

    def test_defaults(self) -> None:
        """Values that a rule does not have are those of the daemon."""
        rule = Rule(match="a", history_size=0, latest=True)
        self.assertEqual(
            rule.with_defaults(Rule(history_size=5, history_ttl=6, publish="token", retain=True)),
            Rule(match="a", history_size=0, history_ttl=6, publish="token", latest=True),
        )

    def test_message_limit(self) -> None:
        """A rule can only lower the limit on messages."""
        self.assertEqual(Rule().message_limit(7), 7)
        self.assertEqual(Rule(max_message=6).message_limit(7), 6)
        self.assertEqual(Rule(max_message=8).message_limit(7), 7)

    def test_none(self) -> None:
        """Without rules every topic has the default."""
        self.assertIs(Rules().find("news"), DEFAULT)

    def test_replace(self) -> None:
        """A reload puts other rules in force, also for topics that were looked up before."""
        found, fresh = Rules((Rule(match="*"),)), Rule(match="*", retain=True)
        found.find("news")
        found.replace(Rules((fresh,)))
        self.assertIs(found.find("news"), fresh)

    def test_bounded(self) -> None:
        """However many topics are asked for, a bounded number is remembered."""
        found = Rules((rule := Rule(match="*"),))
        with patch.object(rules, "_MAX_KNOWN", 3):
            for number in range(10):
                self.assertIs(found.find(f"t{number}"), rule)
                self.assertLessEqual(len(found._known), 3)
