"""Limits on the commands that a node sends to Redis."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from pushd.errors import RedisError, RedisUnavailable
from pushd.topics.broker import Draft
from pushd.topics.redis import commands as module
from pushd.topics.redis.revocations import READ_REVOCATIONS
from pushd.topics.redis.scripts import Script
from pushd.topics.rules import Rule, Rules
from tests.support.fake_redis import FakeSession
from tests.topics.redis.test_broker import BrokerTestCase


class TopicCommandsTests(BrokerTestCase):
    """A node that sends more than the limits allow."""

    def test_limits(self) -> None:
        """Unanswered publications are limited in number and in bytes; answers make room."""
        self.start()
        for name, limit in [("_MAX_UNANSWERED", 2), ("_MAX_UNANSWERED_BYTES", 2)]:
            with self.subTest(name):
                patched = self.patch(module, name, limit)
                self.redis.late = True
                waiting = [self.broker.publish("t", "x") for _ in range(2)]
                self.assertIn("too many publications", self.why(self.broker.publish("t", "x")))
                self.redis.answer()
                for one in waiting:
                    self.successResultOf(one)
                self.publish("t")
                patched.restore()

    def test_kept(self) -> None:
        """Redis is told with each publication how its topic is kept."""
        self.redis.rules.replace(
            Rules(
                [
                    Rule(match="a", history_size=3, history_ttl=7),
                    Rule(match="b", history_size=0, retain=True),
                ]
            )
        )
        self.start()
        drafts = [Draft(topic, "x") for topic in "abc"]
        self.successResultOf(self.broker.publish_all(drafts))
        self.assertEqual(self.redis.kept, [(3, 7000, 0), (1, 300_000, 1), (100, 300_000, 0)])

    def test_kept_after_a_reload(self) -> None:
        """After the rules have changed, Redis is told what holds now; so if very many are known."""
        self.start()
        self.publish("t")
        self.redis.rules.replace(Rules([Rule(match="t", history_size=3)]))
        self.patch(module, "_MAX_PLACES", 2)
        for topic in "tuvwt":
            self.publish(topic)
        self.assertEqual([size for size, _, _ in self.redis.kept], [100, 3, 100, 100, 100, 3])
        self.assertLessEqual(len(self.broker._commands._places), 2)

    def test_cancelled(self) -> None:
        """A publication that was cancelled counts until it is answered, and no longer."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "xyz")
        publishing.addErrback(lambda _: None)
        publishing.cancel()
        self.assertEqual(self.unanswered, (1, 3))
        self.redis.answer()
        self.assertEqual(self.unanswered, (0, 0))

    def test_exception(self) -> None:
        """A publication that cannot be sent does not count, whatever was raised."""
        self.start()
        self.patch(FakeSession, "run_script", lambda *_: 1 / 0)
        self.failureResultOf(self.broker.publish("t", "x"), ZeroDivisionError)
        self.assertEqual(self.unanswered, (0, 0))

    @property
    def unanswered(self) -> tuple[int, int]:
        """The number of publications that have no answer yet, and their bytes."""
        return self.broker._commands._unanswered, self.broker._commands._unanswered_bytes

    def test_foreign_key(self) -> None:
        """A key of another program that looks like that of a topic is not listed."""
        self.start()
        self.publish("a")
        keys = [b"pushd:{a}:topic", b"pushd:{a}:key:{x}:topic", b"pushd:{}:topic"]
        self.patch(FakeSession, "run", lambda *_: succeed([b"0", keys]))
        self.assertEqual(self.successResultOf(self.broker.names()), ["a"])

    def test_unexpected_answers(self) -> None:
        """An answer that our scripts do not give is an error of the broker, and counts nothing."""
        self.start()
        self.publish("t")
        commands = self.broker._commands
        session: Any = self.redis.sessions[0]
        answer: Any
        for answer in (None, 7, b"x", [7], [b"x"], [[]], [b"e:1"] * 3, [None] * 5):
            self.patch(FakeSession, "run_script", lambda *_, answer=answer: succeed(answer))
            self.patch(FakeSession, "run", lambda *_, answer=answer: succeed(answer))
            self.patch(FakeSession, "publish", lambda *_, answer=answer: succeed(answer))
            asked = [
                commands.publish(session, [Draft("t", "x"), Draft("t", "y")]),
                Deferred.fromCoroutine(commands.read(session, "t", None, 100)),
                Deferred.fromCoroutine(commands.touch(session, ["t", "u"])),
                Deferred.fromCoroutine(commands.names(session)),
                Deferred.fromCoroutine(commands.locate(session, "g", {"t": 1, "u": 2})),
            ]
            if not isinstance(answer, bytes):
                asked.append(Deferred.fromCoroutine(commands.settle(session)))
            if answer is not None:  # That means that there is no such topic.
                asked.append(Deferred.fromCoroutine(commands.describe(session, "t")))
            for one in asked:
                error = self.failureResultOf(one, RedisError).value
                self.assertIn("unexpected answer", str(error), answer)
            self.assertEqual(self.unanswered, (0, 0))
            self.assertEqual(commands._reads.tokens, commands._reads.limit)

    def test_generation(self) -> None:
        """A node tells each server the last generation that it knows of, from any server."""
        self.start()
        arguments: list[Any] = []
        run_script = FakeSession.run_script

        def record(session: FakeSession, script: Script, keys: Any, args: Any) -> Any:
            if script is not READ_REVOCATIONS:
                arguments.append(args)
            return run_script(session, script, keys, args)

        self.patch(FakeSession, "run_script", record)
        self.publish("t")
        self.redis.lose()
        self.reconnect()
        self.publish("t")
        self.assertEqual([args[2] for args in arguments], ["generation"] * 3)
        self.assertEqual(
            [session.generations for session in self.redis.sessions], [[""], ["generation"]]
        )

    def test_generation_unknown(self) -> None:
        """If Redis does not say the generation, the commands give the last one that is known."""
        self.start()
        for failure in (RedisError("OOM"), RedisUnavailable("lost")):
            self.redis.settling = failure
            self.redis.lose()
            self.reconnect()
            self.publish("t")
        self.redis.settling = None
        self.redis.lose()
        self.reconnect()
        sessions = self.redis.sessions[1:]
        self.assertEqual([one.generations for one in sessions], [["generation"]] * 3)

    def test_many_topics(self) -> None:
        """If there are very many topics, only some are listed."""
        self.start()
        for topic in "abcd":
            self.publish(topic)
        self.patch(module, "_MAX_SCANS", 1)
        names: list[str] = self.successResultOf(self.broker.names())
        self.assertEqual(sorted(names), ["a", "b"])
