"""A node over a Redis that is in memory: late, lost, full and empty at will."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd import redis_broker
from pushd.broker import Draft, Unavailable
from pushd.history import Retention
from pushd.messages import Id, Publication
from pushd.redis_broker import RedisBroker
from pushd.redis_scripts import Away
from tests.broker_contract import Listener, Node
from tests.fake_redis import FakeRedis


class PromptNode(Node):
    """A node whose turns are short."""

    def deliver(self, publication: Publication) -> None:
        """Tell at once."""
        super().deliver(publication)
        self.hub.flush()


class BrokerTestCase(SynchronousTestCase):
    """A Redis and a node."""

    def setUp(self) -> None:
        """Begin."""
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            db=0,
            retention=Retention(),
            make_name=lambda: "fresh",
        )
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """End; nothing is left."""
        self.broker.stop()
        self.redis.answer()
        self.redis.history.stop()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self) -> Node:
        """Begin."""
        node = PromptNode(self.broker, self.clock)
        self.run_reactor()
        return node

    def run_reactor(self) -> None:
        """Let begin what waits for that."""
        for begin, args, arguments in self.clock.whenRunningHooks:
            begin(*args, **arguments)

    def publish(self, topic: str, data: str | bytes = "x", key: str | None = None) -> str:
        """Publish; gives the id."""
        return str(self.successResultOf(self.broker.publish(topic, data, key)))

    def why(self, deferred: Deferred[Any]) -> str:
        """Why this can't be had."""
        return str(self.failureResultOf(deferred, Unavailable).value)

    def go_on(self) -> None:
        """Let the next session be opened."""
        self.clock.advance(10)


class PublishingTests(BrokerTestCase):
    """What is published, and what is not."""

    def test_published(self) -> None:
        """It is heard where somebody listens, and its key is remembered."""
        listener = self.start().listen("t")
        ids = [self.publish("t", "a"), self.publish("t", b"b", "k"), self.publish("t", "c", "k")]
        self.assertEqual(listener.events, [("e0-0:0", False), (ids[0], "a"), (ids[1], b"b")])
        self.assertEqual(ids[2], ids[1])

    def test_many(self) -> None:
        """Many are one question."""
        self.start()
        drafts = [Draft("t", "a"), Draft("u", b"b", "k"), Draft("t", "c")]
        ids = self.successResultOf(self.broker.publish_all(drafts))
        self.assertEqual([str(id) for id in ids], ["e0-0:1", "e0-1:1", "e0-0:2"])
        self.assertEqual(self.redis.asked, ["publish"])

    def test_away(self) -> None:
        """While there is no session, it says why."""
        self.redis.trouble = Away("no route")
        self.start()
        self.assertEqual(self.why(self.broker.publish("t", "x")), "Redis at it: no route")
        self.assertEqual(self.broker.fault(), "Redis at it: no route")

    def test_answer_lost(self) -> None:
        """When the answer is lost, nobody knows."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "x")
        self.assertNoResult(publishing)
        self.redis.lose()
        self.assertIn("nobody knows", self.why(publishing))

    def test_refused(self) -> None:
        """What Redis says against it is said."""
        self.start()
        self.redis.refusal = "OOM command not allowed"
        self.assertEqual(
            self.why(self.broker.publish("t", "x")), "Redis at it refuses: OOM command not allowed"
        )
        self.assertIsNone(self.broker.fault())

    def test_read_only(self) -> None:
        """One that has become a replica is left; the next session may be with another."""
        self.start()
        self.redis.refusal = "READONLY You can't write"
        first, second = self.broker.publish("t", "x"), self.broker.publish("t", "x")
        self.assertIn("READONLY", self.why(first))
        self.assertIn("read-only replica", self.why(second))
        self.assertFalse(self.redis.sessions[0].open)
        self.redis.refusal = None
        self.go_on()
        self.publish("t")

    def test_read_only_twice(self) -> None:
        """Two that are told at once leave it once."""
        self.start()
        self.redis.refusal = "READONLY"
        self.redis.late = True
        publishing = [self.broker.publish("t", "x") for _ in range(2)]
        self.redis.answer()
        for one in publishing:
            self.assertIn("READONLY", self.why(one))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_bounds(self) -> None:
        """Only so much waits for an answer, in number and in bytes; when it comes, more may."""
        self.start()
        for name, most in [("_MAX_UNANSWERED", 2), ("_MAX_UNANSWERED_BYTES", 2)]:
            with self.subTest(name):
                patched = self.patch(redis_broker, name, most)
                self.redis.late = True
                waiting = [self.broker.publish("t", "x") for _ in range(2)]
                self.assertIn("too much", self.why(self.broker.publish("t", "x")))
                self.redis.answer()
                for one in waiting:
                    self.successResultOf(one)
                self.publish("t")
                patched.restore()

    def test_given_up(self) -> None:
        """A publisher that does not wait for the answer takes nothing with it."""
        self.start()
        self.redis.late = True
        publishing = self.broker.publish("t", "x")
        publishing.addErrback(lambda _: None)
        publishing.cancel()
        self.redis.answer()
        self.assertEqual((self.broker._unanswered, self.broker._unanswered_bytes), (0, 0))


class SessionTests(BrokerTestCase):
    """One session after the other."""

    def test_begins_when_the_reactor_runs(self) -> None:
        """Before that, and after the end, nothing is connected to."""
        Node(self.broker, self.clock)
        self.assertEqual(self.redis.sessions, [])
        self.assertIn("not answered yet", str(self.broker.fault()))
        self.broker.stop()
        self.run_reactor()
        self.assertEqual(self.redis.sessions, [])

    def test_stopped_while_opening(self) -> None:
        """A stop ends what is just being opened."""
        self.redis.late = True
        self.start()
        self.broker.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost_and_found(self) -> None:
        """What was published meanwhile is read, by everybody who listens, once."""
        node = self.start()
        listeners = [node.listen("t"), node.listen("t"), node.listen("u")]
        self.publish("t", "a")
        self.redis.lose()
        self.assertIn("connection was lost", str(self.broker.fault()))
        for data in "bc":
            self.redis.publish("t", data)
        self.go_on()
        self.redis.publish("t", "d")
        for listener in listeners[:2]:
            self.assertEqual([data for _, data in listener.events[1:]], list("abcd"))
        self.assertEqual(len(listeners[2].events), 1)

    def test_lost_and_empty(self) -> None:
        """When all is forgotten, those who listen are ended."""
        listener = self.start().listen("t")
        self.publish("t", "a")
        self.redis.lose()
        self.redis.history.stop()
        self.redis.forget()
        self.go_on()
        self.assertEqual(listener.events[2:], ["lost"])

    def test_lost_while_one_reads(self) -> None:
        """Who reads the past just then reads it in the next session."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        self.redis.late = True
        back = node.listen("t", after="e0-0:0")
        self.redis.lose()
        self.assertEqual(back.events, [])
        self.go_on()
        self.assertEqual(back.events, [("e0-0:0", True), (id, "x")])

    def test_lost_in_each_step(self) -> None:
        """Wherever a session is lost, the next one goes on."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t")
        for _ in range(2):
            self.redis.lose()
            self.redis.late = True
            self.go_on()
            # The session; then the subscription has its turn.
            waiting, answer = self.redis.waiting.popleft()
            waiting.callback(answer)
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.lose()
        self.go_on()
        self.assertEqual(listener.events, [("e0-0:0", False)])


class ListeningTests(BrokerTestCase):
    """Who listens, and to what."""

    def test_one_subscription(self) -> None:
        """A topic is subscribed to once, from its first subscriber to its last."""
        node = self.start()
        first, second = node.listen("t"), node.listen("t")
        self.assertEqual(self.redis.sessions[0].channels, [b"pushd:0:t"])
        for listener in (first, second):
            assert listener.subscription is not None
            listener.subscription.cancel()
        self.assertEqual(self.redis.sessions[0].channels, [])

    def test_no_question(self) -> None:
        """Who is new at a topic that is live, or has all of it, costs no question."""
        node = self.start()
        node.listen("t")
        id = self.publish("t")
        asked = len(self.redis.asked)
        events = [node.listen("t", after).events for after in (None, id)]
        self.assertEqual(events, [[(id, False)], [(id, True)]])
        self.assertEqual(len(self.redis.asked), asked)
        self.assertEqual(node.listen("t", "e0-0:0").events[1:], [(id, "x")])
        self.assertEqual(self.redis.asked[asked:], ["replay"])

    def test_begins_behind_the_broker(self) -> None:
        """Nobody reads before the broker has, or what comes between might be taken for given."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t", after="e0-0:0")
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(self.redis.asked, ["replay"])
        self.redis.publish("t", "a")
        self.redis.answer()
        self.assertEqual(listener.events, [("e0-0:0", True), ("e0-0:1", "a")])

    def test_left_in_each_step(self) -> None:
        """One who leaves while Redis is asked is not served, and its topic is let go."""
        for steps in range(3):
            with self.subTest(steps):
                self.setUp()
                node = self.start()
                self.redis.late = True
                listener = node.listen("t")
                for _ in range(steps):
                    waiting, answer = self.redis.waiting.popleft()
                    waiting.callback(answer)
                assert listener.subscription is not None
                listener.subscription.cancel()
                self.redis.answer()
                self.assertEqual(listener.events, [("e0-0:0", False)] if steps > 1 else [])
                self.assertEqual(self.redis.sessions[0].channels, [])
                self.stop()

    def test_gap(self) -> None:
        """What was not told is read as soon as something else is."""
        listener = self.start().listen("t")
        self.redis.silent = True
        self.redis.publish("t", "a")
        self.redis.silent = False
        self.redis.publish("t", "b")
        self.assertEqual([data for _, data in listener.events[1:]], ["a", "b"])

    def test_strangers(self) -> None:
        """What others say is logged and ignored, and so is what comes too late."""
        node = self.start()
        listener = node.listen("t")
        with capturedLogs() as events:
            self.redis.sessions[0].notice(b"pushd:0:t", b"hello")
        self.assertEqual(len(events), 1)
        self.redis.sessions[0].notice(b"pushd:0:another", b"e0-0:1 tx")
        self.redis.tell(Publication("t", "again", Id("e0-0", 0)))
        self.assertEqual(len(listener.events), 1)

    def test_refused(self) -> None:
        """A topic that Redis does not let us read is tried again; who waits, waits for that."""
        node = self.start()
        self.redis.refusal = "OOM"
        with capturedLogs() as events:
            listener = node.listen("t", "e0-0:0")
            node.listen("u")
            self.clock.advance(1)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.assertEqual(listener.events, [])
        with capturedLogs() as events:
            self.clock.pump([1] * 10)
        self.assertEqual([event["error"] for event in events], ["OOM"])
        self.redis.refusal = None
        self.clock.advance(1)
        self.assertEqual(listener.events, [("e0-0:0", True)])
        self.redis.refusal = "OOM"
        self.assertEqual(node.listen("t", "e0-0:9").events, ["lost"])

    def test_refused_and_left(self) -> None:
        """A topic that nobody wants any more is not tried again."""
        node = self.start()
        self.redis.late = True
        listener = node.listen("t")
        waiting, answer = self.redis.waiting.popleft()
        self.redis.refusal = "OOM"
        waiting.callback(answer)
        assert listener.subscription is not None
        listener.subscription.cancel()
        self.redis.answer()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_patience(self) -> None:
        """Who comes while Redis is away waits for half a minute, and is not logged one by one."""
        self.redis.trouble = Away("no route")
        node = self.start()
        listener = node.listen("t")
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.clock.advance(29)
        self.assertEqual(listener.events, [])
        self.assertNoResult(replaying)
        self.clock.advance(1)
        self.assertEqual(listener.events, ["lost"])
        self.assertEqual(self.why(replaying), "Redis at it: no route")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_waits(self) -> None:
        """Who asks while Redis is away is answered when it is back."""
        self.redis.trouble = Away("no route")
        self.start()
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.redis.trouble = None
        self.go_on()
        self.assertEqual(self.successResultOf(replaying).id, Id("e0-0", 0))

    def test_stop(self) -> None:
        """At the end nobody waits any longer."""
        self.redis.trouble = Away("no route")
        node = self.start()
        listener = node.listen("t")
        replaying = self.broker.replay("nobody follows this", None, 1000)
        self.broker.stop()
        self.assertEqual(listener.events, ["lost"])
        self.why(replaying)
        self.assertIn("stops", self.why(self.broker.replay("t", None, 1000)))
        self.assertIn("stops", self.why(self.broker.publish("t", "x")))

    def test_many_topics(self) -> None:
        """However many topics catch up, only some do at a time, and all do in the end."""
        node = self.start()
        listeners = [node.listen(f"t{number}") for number in range(200)]
        self.redis.lose()
        ids = [str(self.redis.publish(f"t{number}", "x")) for number in range(200)]
        self.redis.late = True
        self.go_on()
        waiting, answer = self.redis.waiting.popleft()
        waiting.callback(answer)
        self.assertEqual(len(self.redis.waiting), 64)
        self.redis.answer()
        self.assertEqual([one.events[-1] for one in listeners], [(id, "x") for id in ids])


class TellingTests(BrokerTestCase):
    """What is there."""

    def names(self) -> list[str]:
        """The topics that are listed."""
        names: list[str] = self.successResultOf(self.broker.names())
        return sorted(names)

    def test_told(self) -> None:
        """Topics are listed and described."""
        self.start()
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (None, 0))
        for topic in ("t", "u", "t"):
            self.publish(topic)
        self.assertEqual(self.successResultOf(self.broker.describe("t")), (Id("e0-0", 2), 2))
        self.assertEqual(self.names(), ["t", "u"])
        self.assertEqual((self.broker.published, self.broker.history_bytes), (3, 0))

    def test_very_many(self) -> None:
        """Not all of very many are listed."""
        self.start()
        for topic in "abcd":
            self.publish(topic)
        self.patch(redis_broker, "_SCANS", 1)
        self.assertEqual(self.names(), ["a", "b"])

    def test_refused(self) -> None:
        """When Redis does not tell, it is said why."""
        self.start()
        self.redis.refusal = "NOPERM"
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: NOPERM")
        self.redis.lose("gone")
        for asking in (self.broker.names(), self.broker.describe("t")):
            self.assertEqual(self.why(asking), "Redis at it: gone")


class TouchingTests(BrokerTestCase):
    """Topics that are followed are not forgotten."""

    def listen(self) -> Listener:
        """Let somebody listen, and forget what was asked for that."""
        listener = self.start().listen("t")
        self.redis.asked.clear()
        return listener

    def test_touched(self) -> None:
        """Every few minutes, in steps of some hundred."""
        node = self.start()
        for number in range(501):
            node.listen(f"t{number}")
        self.redis.asked.clear()
        self.clock.advance(199)
        self.assertEqual(self.redis.asked, [])
        self.clock.advance(1)
        self.assertEqual(self.redis.asked, ["touch"] * 2)
        self.clock.advance(200)
        self.assertEqual(self.redis.asked, ["touch"] * 4)

    def test_lost_tail(self) -> None:
        """What was not told, and nothing behind it, is found by that as well."""
        listener = self.listen()
        self.redis.silent = True
        id = str(self.redis.publish("t", "a"))
        self.clock.advance(200)
        self.assertEqual(listener.events[1:], [(id, "a")])

    def test_forgotten(self) -> None:
        """And so is that all is forgotten."""
        listener = self.listen()
        self.redis.history.stop()
        self.redis.ids.clear()
        self.redis.sessions.append(self.redis.sessions[0])
        self.redis.forget()
        self.clock.advance(200)
        self.assertEqual(listener.events[1:], ["lost"])

    def test_refused(self) -> None:
        """When Redis refuses that, or is lost, it is tried the next time."""
        self.listen()
        self.redis.refusal = "OOM"
        self.clock.advance(200)
        self.redis.refusal = None
        self.redis.late = True
        self.clock.advance(200)
        self.redis.lose()
        self.go_on()
        self.clock.advance(200)
        self.assertEqual(self.redis.asked.count("touch"), 3)

    def test_left_meanwhile(self) -> None:
        """One that was left while it was asked for is let go."""
        listener = self.listen()
        self.redis.silent = self.redis.late = True
        self.redis.publish("t", "a")
        self.clock.advance(200)
        assert listener.subscription is not None
        listener.subscription.cancel()
        self.redis.answer()
        self.assertEqual(self.redis.asked, ["touch"])
