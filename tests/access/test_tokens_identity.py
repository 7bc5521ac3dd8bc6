"""Topic patterns: what is one, and what is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.tokens import Identity, check_pattern, matches
from pushd.topics.publication import check_topic
from tests.unhurried import UNHURRIED

SEGMENTS = st.sampled_from(["a", "b", "news", "x-1", "v1.2", "*"])
TOPICS = st.lists(SEGMENTS.filter(lambda one: one != "*"), min_size=1, max_size=5)


def reference(pattern: list[str], topic: list[str]) -> bool:
    """Say the same as ``matches``, in another way."""
    if pattern == ["**"]:
        return bool(topic)
    if not pattern or not topic:
        return not pattern and not topic
    return pattern[0] in ("*", topic[0]) and reference(pattern[1:], topic[1:])


class PatternTests(SynchronousTestCase):
    """``*`` for a segment, ``**`` for the rest."""

    def test_examples(self) -> None:
        """The examples of the documents hold."""
        for pattern, inside, outside in (
            ("news", ["news"], ["new", "news/a", "newsx", "NEWS"]),
            ("chat/*", ["chat/7", "chat/x"], ["chat", "chat/7/8", "chats/7"]),
            ("*/news", ["de/news"], ["news", "de/at/news"]),
            ("a/**", ["a/b", "a/b/c"], ["a", "b", "ab", "b/a"]),
            ("*", ["a"], ["a/b"]),
            ("**", ["a", "a/b/c"], []),
            ("a/*/**", ["a/b/c", "a/b/c/d"], ["a/b", "a"]),
            # A dot is a dot: a pattern is no regular expression.
            ("a.c", ["a.c"], ["abc"]),
        ):
            check_pattern(pattern)
            self.assertEqual([one for one in inside if not matches(pattern, one)], [], pattern)
            self.assertEqual([one for one in outside if matches(pattern, one)], [], pattern)

    def test_property(self) -> None:
        """Whatever the pattern and the topic, segments decide, one by one."""

        @UNHURRIED
        @given(st.lists(SEGMENTS, max_size=4), st.booleans(), TOPICS)
        def check(segments: list[str], rest: bool, topic: list[str]) -> None:
            pattern = [*segments, "**"] if rest or not segments else segments
            check_pattern("/".join(pattern))
            expected = reference(pattern, topic)
            self.assertEqual(matches("/".join(pattern), "/".join(topic)), expected)

        check()

    def test_topics_are_patterns(self) -> None:
        """Every topic is a pattern that has this topic in it, and no other."""

        @UNHURRIED
        @given(TOPICS, TOPICS)
        def check(one: list[str], other: list[str]) -> None:
            pattern = check_topic("/".join(one))
            self.assertEqual(matches(check_pattern(pattern), "/".join(other)), one == other)

        check()

    def test_bad(self) -> None:
        """What is no pattern is refused."""
        for text in ("", "/", "a/", "/a", "a//b", "a**", "**/a", "a*", "*a", "***", "a b", "é"):
            self.assertRaises(ValueError, check_pattern, text)
        self.assertRaises(ValueError, check_pattern, "a" * 256)
        self.assertRaises(ValueError, check_pattern, "a\n")


class IdentityTests(SynchronousTestCase):
    """Who may do what."""

    def test_rights(self) -> None:
        """Each right has its own patterns; without any there is none."""
        identity = Identity(subject="u", expires=0, subscribe=("a", "b/*"), publish=("c/**",))
        self.assertTrue(identity.may_subscribe("a"))
        self.assertTrue(identity.may_subscribe("b/x"))
        self.assertFalse(identity.may_subscribe("c/x"))
        self.assertTrue(identity.may_publish("c/x"))
        self.assertFalse(identity.may_publish("a"))
        nobody = Identity(subject="", expires=0)
        self.assertFalse(nobody.may_subscribe("a") or nobody.may_publish("a"))
