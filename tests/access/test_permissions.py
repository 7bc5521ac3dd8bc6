"""Permissions: what an authorizer may answer, and how long an answer is remembered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import inf, nan
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access import permissions
from pushd.access.closing import PERMISSION_EXPIRED, PERMISSION_REVOKED, TOKEN_EXPIRED, Closing
from pushd.access.connections import Connections
from pushd.access.permissions import Permission, PermissionCache, Question, Revoker
from pushd.access.tokens import Identity
from pushd.errors import NotPermitted, Unavailable
from tests.support.fake_revocations import FakeExchange

TOKEN = Identity(subject="ann", expires=100, subscribe=("a",), info="of the token")


class PermissionTests(SynchronousTestCase):
    """A Permission is checked when it is made."""

    def test_until(self) -> None:
        """It ends at a time in seconds, or at a datetime with a time zone, or never."""
        self.assertEqual(Permission().expires, inf)
        self.assertEqual(Permission(until=7.5).expires, 7.5)
        self.assertEqual(Permission(until=datetime(1970, 1, 1, 0, 1, tzinfo=UTC)).expires, 60)

    def test_invalid(self) -> None:
        """A value that makes no sense is refused with a text that names it."""
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("subject", {"subject": 7}),
            ("subject", {"subject": "ü" * 128}),
            ("surrogates", {"subject": "\ud800"}),
            ("time zone", {"until": datetime(2030, 1, 1)}),
            ("until", {"until": inf}),
            ("until", {"until": nan}),
            ("cache", {"cache": -1}),
            ("cache", {"cache": inf}),
            ("JSON", {"info": nan}),
            ("JSON", {"info": {1, 2}}),
            ("1024", {"info": "x" * 1023}),
        ]
        for text, values in wrong:
            with self.assertRaises((TypeError, ValueError)) as caught:
                Permission(**values)
            self.assertIn(text, str(caught.exception))
        Permission(subject="x" * 255, info="x" * 1022, cache=0)

    def test_identity(self) -> None:
        """What it says goes before the token; the earlier end counts, and how it closes."""
        self.assertIsNone(Permission().identity(None))
        self.assertEqual(Permission().identity(TOKEN), TOKEN)
        made = Permission(subject="bob", until=50, info=[1]).identity(TOKEN)
        assert made is not None
        self.assertEqual((made.subject, made.expires, made.info), ("bob", 50, [1]))
        self.assertEqual((made.subscribe, made.closing), (("a",), PERMISSION_EXPIRED))
        later = Permission(until=150).identity(TOKEN)
        assert later is not None
        self.assertEqual((later.subject, later.expires), ("ann", 100))
        self.assertEqual((later.closing, later.info), (TOKEN_EXPIRED, "of the token"))
        alone = Permission(info="x").identity(None)
        assert alone is not None
        self.assertEqual((alone.subject, alone.expires, alone.info), ("", inf, "x"))


class PermissionCacheTests(SynchronousTestCase):
    """Answers are remembered for as long as each allows."""

    def setUp(self) -> None:
        """Make a cache whose clock the test sets."""
        self.clock = Clock()
        self.now = 0.0
        self.cache = PermissionCache(self.clock.seconds, lambda: self.now)
        self.question = Question(b"c", "subscribe", "t")

    def test_time(self) -> None:
        """An answer is forgotten after its time; one without a time is not remembered."""
        for answer in (Permission(cache=5), NotPermitted(cache=5)):
            self.cache.add(self.question, answer)
            self.assertIs(self.cache.get(self.question), answer)
            self.clock.advance(5)
            self.assertIsNone(self.cache.get(self.question))
        self.cache.add(self.question, Permission())
        self.assertIsNone(self.cache.get(self.question))
        self.assertEqual(len(self.cache), 0)

    def test_until(self) -> None:
        """A permission that has ended is forgotten, although its time is not over."""
        self.cache.add(self.question, Permission(cache=50, until=10))
        self.now = 9
        self.assertIsNotNone(self.cache.get(self.question))
        self.now = 10
        self.assertIsNone(self.cache.get(self.question))

    def test_question(self) -> None:
        """Credentials, action and topic must all be the same."""
        self.cache.add(self.question, Permission(cache=5))
        for other in (
            Question(b"d", "subscribe", "t"),
            Question(b"c", "publish", "t"),
            Question(b"c", "subscribe", "u"),
        ):
            self.assertIsNone(self.cache.get(other))

    def test_bound(self) -> None:
        """Beyond the limit the oldest answer is forgotten."""
        self.patch(permissions, "_MAX_ANSWERS", 2)
        questions = [Question(bytes([n]), "subscribe", "t") for n in range(3)]
        for question in questions:
            self.cache.add(question, Permission(cache=5))
        known = [self.cache.get(question) is not None for question in questions]
        self.assertEqual(known, [False, True, True])

    def test_forget(self) -> None:
        """Answers are forgotten by topic and by subject; those of an unknown subject, too."""
        answers: dict[str, Permission | NotPermitted] = {
            "a/ann": Permission(subject="ann", cache=5),
            "a/bob": Permission(subject="bob", cache=5),
            "a/token": Permission(cache=5),
            "a/no": NotPermitted(cache=5),
            "b/ann": Permission(subject="ann", cache=5),
        }
        for topic, answer in answers.items():
            self.cache.add(Question(b"c", "subscribe", topic), answer)
        self.cache.forget(lambda topic: topic.startswith("a/"), "ann")
        left = [topic for topic in answers if self.cache.get(Question(b"c", "subscribe", topic))]
        self.assertEqual(left, ["a/bob", "b/ann"])
        self.cache.forget(lambda topic: True)
        self.assertEqual(len(self.cache), 0)

    def test_revoked(self) -> None:
        """A permission is revoked by what came after its question, and concerns it."""
        ann = Permission(subject="ann")
        since = self.cache.revoked
        self.cache.forget(lambda topic: topic == "u")
        self.cache.forget(lambda topic: True, "bob")
        self.assertFalse(self.cache.is_revoked(self.question, ann, since))
        self.assertTrue(self.cache.is_revoked(self.question, Permission(), since))
        self.cache.forget(lambda topic: True, "ann")
        self.assertTrue(self.cache.is_revoked(self.question, ann, since))
        self.assertFalse(self.cache.is_revoked(self.question, ann, self.cache.revoked))
        for _ in range(permissions._MAX_REVOCATIONS + 1):
            self.cache.forget(lambda topic: False)
        # One that is not remembered may have concerned it.
        self.assertTrue(self.cache.is_revoked(self.question, ann, since + 3))


class FakeConnection:
    """A connection with one topic."""

    transport = "fake"

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.closing: Closing | None = None

    def close_with(self, closing: Closing) -> None:
        """Do nothing."""

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """Record the closing if the topic matches."""
        if not matches(self.topic):
            return 0
        self.closing = closing
        return 1


class RevokerTests(SynchronousTestCase):
    """A Revoker ends subscriptions, and forgets the permissions for them."""

    def setUp(self) -> None:
        """Open connections of two subjects to two topics."""
        clock = Clock()
        self.connections = Connections(clock, clock.seconds)
        self.cache = PermissionCache(clock.seconds, clock.seconds)
        self.revoker = Revoker(self.connections, self.cache)
        self.all: dict[str, FakeConnection] = {}
        for topic in ("chat/1", "chat/2", "news"):
            for subject in ("ann", "bob", None):
                self.all[f"{subject} {topic}"] = connection = FakeConnection(topic)
                self.connections.add(connection, subject=subject)
                question = Question(f"{subject}".encode(), "subscribe", topic)
                self.cache.add(question, Permission(subject=subject or "", cache=5))

    def assert_ended(self, *names: str) -> None:
        """Check which connections were ended."""
        ended = [name for name, one in self.all.items() if one.closing is not None]
        self.assertEqual(ended, list(names))
        self.assertEqual({self.all[name].closing for name in names}, {PERMISSION_REVOKED})
        self.assertEqual(len(self.cache), 9 - len(names))

    def test_topic(self) -> None:
        """Those to a topic are ended, of all clients."""
        self.assertEqual(self.revoker.revoke("news"), 3)
        self.assert_ended("ann news", "bob news", "None news")

    def test_subject(self) -> None:
        """Those of a subject are ended, to all topics."""
        self.assertEqual(self.revoker.revoke(subject="ann"), 3)
        self.assert_ended("ann chat/1", "ann chat/2", "ann news")

    def test_both(self) -> None:
        """With both, and a pattern, those of the subject to the topics that match are ended."""
        self.assertEqual(self.revoker.revoke("chat/*", "bob"), 2)
        self.assert_ended("bob chat/1", "bob chat/2")

    def test_mistakes(self) -> None:
        """Neither, or a pattern that is not valid, is refused."""
        for topic in (None, "", "a//b", "**/a"):
            self.assertRaises(ValueError, self.revoker.revoke, topic)
        self.assertEqual(self.cache.revoked, 0)

    def test_exchange(self) -> None:
        """The other nodes are told, and what they tell ends subscriptions here."""
        exchange = FakeExchange()
        revoker = Revoker(self.connections, self.cache, exchange)
        self.assertEqual(revoker.revoke("news"), 3)
        self.assertEqual(self.successResultOf(revoker.revoke_everywhere(subject="ann")), 3)
        self.assertEqual(exchange.told, [("news", None), (None, "ann")])
        self.assertRaises(ValueError, revoker.revoke_everywhere)
        exchange.revoke("chat/*", "bob")
        self.assertEqual(len(exchange.told), 2)
        self.assertEqual(self.cache.revoked, 3)

    def test_unreachable_exchange(self) -> None:
        """If the other nodes can't be told, the subscriptions here end all the same."""
        exchange = FakeExchange()
        exchange.error = Unavailable("Redis is away")
        revoker = Revoker(self.connections, self.cache, exchange)
        with capturedLogs() as events:
            self.assertEqual(revoker.revoke("news"), 3)
        [event] = events
        self.assertEqual(event["event"], "revocation_untold")
        self.assertEqual(event["reason"], "Redis is away")
        self.failureResultOf(revoker.revoke_everywhere("chat/*"), Unavailable)
        self.assertEqual(self.cache.revoked, 2)


class NotPermittedTests(SynchronousTestCase):
    """The answer that refuses."""

    def test_status(self) -> None:
        """It is a 403, or a 401 for a client that should log in; nothing else."""
        self.assertEqual(NotPermitted().status, 403)
        self.assertEqual(NotPermitted("log in", status=401).reason, "log in")
        with self.assertRaisesRegex(ValueError, "401 or 403"):
            NotPermitted(status=404)
