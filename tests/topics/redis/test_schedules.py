"""Schedules over a fake Redis: nodes that die or are slow, lost answers, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisUnavailable, TooManyScheduled, Unavailable
from pushd.schedule.histogram import Histogram
from pushd.topics import scheduled as limits
from pushd.topics.broker import Draft
from pushd.topics.history import Retention
from pushd.topics.redis import schedules as module
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from tests.support.fake_redis import FakeRedis
from tests.support.schedule_contract import RULES, ScheduleNode


class FakeCluster:
    """Nodes over one fake Redis."""

    durable = True

    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.nodes: list[ScheduleNode] = []
        self.grace = 60.0
        self.lateness = Histogram()
        self._numbers = count(1)

    def start_node(self) -> ScheduleNode:
        """Start a node."""
        number = next(self._numbers)
        broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: f"node{number}",
            schedule_grace=self.grace,
            lateness=self.lateness,
        )
        broker.start(lambda publication: None)
        self.clock.whenRunningHooks[-1][0]()
        node = ScheduleNode(
            broker, broker.schedules, number=number, wall=self.now, grace=self.grace
        )
        self.nodes.append(node)
        return node

    def kill(self, node: ScheduleNode) -> None:
        """End a node without a word."""
        self.nodes.remove(node)
        node.broker.stop()

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds * 20)):
            self.clock.advance(0.05)

    async def start(self, grace: float = 60) -> tuple[ScheduleNode, ScheduleNode]:
        """Start two nodes."""
        self.grace = grace
        return self.start_node(), self.start_node()

    async def outage(self, seconds: float) -> tuple[ScheduleNode, ScheduleNode]:
        """Kill all nodes, and start two some time later."""
        for node in tuple(self.nodes):
            self.kill(node)
        self.pass_time(seconds)
        return await self.start(self.grace)

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.pass_time(seconds)

    def now(self) -> float:
        """Return the time of day."""
        return float(self.clock.seconds())

    def stop(self) -> list[Any]:
        """Kill all nodes, and return the timers that are left."""
        for node in tuple(self.nodes):
            self.kill(node)
        self.redis.answer()
        self.redis.history.stop()
        self.clock.advance(0)
        return list(self.clock.getDelayedCalls())


class ContractTests(SynchronousTestCase):
    """The contract of all stores of schedules."""

    def test_rules(self) -> None:
        """Two nodes keep every rule."""
        for rule in RULES:
            with self.subTest(rule=rule.__name__):
                cluster = FakeCluster()
                kept = Deferred.fromCoroutine(rule(cluster))
                self.assertIsNone(self.successResultOf(kept))
                self.assertEqual(cluster.stop(), [])


class RedisScheduleTestCase(SynchronousTestCase):
    """Two nodes over a fake Redis."""

    def setUp(self) -> None:
        """Start the nodes."""
        self.cluster = FakeCluster()
        self.redis, self.clock = self.cluster.redis, self.cluster.clock
        self.one, self.two = self.cluster.start_node(), self.cluster.start_node()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop, and check that no timer is left."""
        self.assertEqual(self.cluster.stop(), [])

    def add(self, node: ScheduleNode, data: str = "x", **times: Any) -> str:
        """Schedule a publication, and return its id."""
        return self.successResultOf(Deferred.fromCoroutine(node.add(data, **times)))

    @property
    def made(self) -> list[str | bytes]:
        """What was published."""
        topic = self.redis.history.replay("t", None, 0).last
        assert topic.offset == self.redis.history.describe("t")[1]
        publications = self.successResultOf(
            Deferred.fromCoroutine(self.cluster.nodes[-1].published())
        )
        return publications

    @property
    def owners(self) -> dict[str, str]:
        """The node that each schedule belongs to."""
        return {id: one.node for id, one in self.redis.schedules.schedules.items()}

    @contextmanager
    def answers(self, answer: Any) -> Iterator[None]:
        """Let the first node get the same answer to every script, as from another program."""
        session = self.redis.sessions[0]
        run = session.run_script
        session.run_script = lambda *_: succeed(answer)  # type: ignore[method-assign]  # a server of another kind
        try:
            yield
        finally:
            session.run_script = run  # type: ignore[method-assign]  # our server again


class NodeTests(RedisScheduleTestCase):
    """What a node does for its own schedules, and for those of others."""

    def test_precise(self) -> None:
        """A publication is made when it is due, counted, and its lateness observed."""
        self.add(self.one, delay=10)
        before = self.one.broker.published, self.two.broker.published
        self.clock.pump([0.5] * 19)
        self.assertEqual(self.made, [])
        self.clock.pump([0.4, 0.1])
        self.clock.advance(0)
        self.assertEqual(self.made, ["x"])
        self.assertEqual(before, (0, 0))
        self.assertEqual((self.one.broker.published, self.two.broker.published), (1, 0))
        self.assertEqual(self.cluster.lateness.buckets[-1][1], 1)

    def test_only_what_is_due(self) -> None:
        """Redis is asked for each publication once, by the node that the schedule belongs to."""
        self.add(self.one, delay=100)
        self.add(self.two, every=0.1, count=20)
        del self.redis.asked[:]
        self.cluster.pass_time(4)
        self.assertEqual(len(self.made), 20)
        self.assertEqual(self.redis.asked.count("publish due"), 20)

    def test_together(self) -> None:
        """Those that are due at the same time are asked for together, but not too many."""
        self.patch(module, "_BATCH", 50)
        for number in range(90):
            self.add(self.one, f"{number}", delay=5)
        self.cluster.pass_time(4.9)
        del self.redis.asked[:]
        # Of many timers that are due, 64 expire in one iteration of the reactor.
        self.clock.pump([0.2, 0, 0, 0, 0])
        self.assertEqual(len(self.made), 90)
        self.assertEqual(self.redis.asked.count("publish due"), 3)

    def test_death(self) -> None:
        """The schedules of a node that has died are taken over, without a gap or a repeat."""
        self.add(self.one, every=0.25, count=40)
        self.cluster.pass_time(1.1)
        self.assertEqual(len(self.made), 5)
        self.cluster.kill(self.one)
        self.cluster.pass_time(1)
        self.assertEqual(len(self.made), 5)
        self.cluster.pass_time(3)
        # They were at most four seconds late, and are at their pace now.
        self.assertEqual(len(self.made), 21)
        self.assertEqual({*self.owners.values()}, {"node2"})
        self.cluster.pass_time(10)
        self.assertEqual(len(self.made), 40)

    def test_release(self) -> None:
        """A node that is stopped gives its schedules back; another has them within a second."""
        id = self.add(self.one, every=0.25, count=40)
        self.cluster.pass_time(1.1)
        self.assertIsNone(self.successResultOf(self.one.scheduled.stop()))
        self.cluster.pass_time(0.6)
        self.assertEqual(len(self.made), 5)
        self.cluster.pass_time(0.6)
        self.assertEqual((len(self.made), self.owners), (10, {id: "node2"}))

    def test_release_without_schedules(self) -> None:
        """A node without schedules leaves nothing in Redis."""
        self.successResultOf(self.one.scheduled.stop())
        self.assertEqual(self.redis.schedules.nodes, {})

    def test_stop_without_redis(self) -> None:
        """A stop without a session ends at once."""
        self.redis.trouble = RedisUnavailable("gone")
        self.redis.lose()
        self.assertIsNone(self.successResultOf(self.one.scheduled.stop()))

    def test_stop_while_publishing(self) -> None:
        """A publication that is made during a stop is counted, and no timer is set after it."""
        self.add(self.one, every=0.5, count=9)
        self.redis.late = True
        self.clock.advance(0)
        self.one.scheduled.stop()
        self.redis.answer()
        self.assertEqual((len(self.made), self.one.broker.published), (1, 1))

    def test_taken_for_dead(self) -> None:
        """A node that was only slow loses its schedules, and publishes nothing twice."""
        self.add(self.one, every=0.25, count=40)
        self.cluster.pass_time(0.6)
        self.redis.schedules.nodes["node1"] = 0
        self.successResultOf(Deferred.fromCoroutine(self.claim(self.two)))
        self.assertEqual({*self.owners.values()}, {"node2"})
        del self.redis.asked[:]
        self.cluster.pass_time(3)
        self.assertEqual(len(self.made), 15)
        # The first node has asked once more, and knows then.
        self.assertEqual(self.redis.asked.count("publish due"), 13)
        # It may get schedules again.
        self.add(self.one, "again", delay=0)
        self.clock.pump([0, 0])
        self.assertIn("again", self.made)

    async def claim(self, node: ScheduleNode) -> None:
        """Let a node ask for its schedules now."""
        broker: Any = node.broker
        await broker.schedules._set_timers(broker._reconnector.session)

    def test_both_alive(self) -> None:
        """Two nodes that both ask for the same publication make it once."""
        self.add(self.one, every=0.25, count=20)
        for _ in range(20):
            # The schedule goes back and forth, while both have a timer.
            self.redis.schedules.nodes["node1"] = self.redis.schedules.nodes["node2"] = 0
            for node in (self.two, self.one):
                self.successResultOf(Deferred.fromCoroutine(self.claim(node)))
            self.cluster.pass_time(0.25)
        self.cluster.pass_time(1)
        self.assertEqual(self.made, ["x"] * 20)

    def test_cancelled_elsewhere(self) -> None:
        """A node that asks for a schedule that another has cancelled forgets it."""
        id = self.add(self.one, every=1, count=9)
        self.cluster.pass_time(0.5)
        self.assertTrue(self.successResultOf(self.two.scheduled.cancel(id)))
        del self.redis.asked[:]
        self.cluster.pass_time(3)
        self.assertEqual((len(self.made), self.redis.asked.count("publish due")), (1, 1))

    def test_dropped(self) -> None:
        """What is dropped is logged in one line, by the node that finds it."""
        self.add(self.one, every=20, count=10)
        self.cluster.pass_time(0.1)
        for node in (self.one, self.two):
            self.cluster.kill(node)
        self.clock.advance(110)
        with capturedLogs() as events:
            node = self.cluster.start_node()
            self.cluster.pass_time(1)
        (event,) = [each for each in events if each.get("event") == "timed_push_dropped"]
        self.assertEqual((event["number"], event["count"], event["topic"]), (2, 10, "t"))
        self.assertEqual((node.scheduled.dropped, len(self.made)), (2, 4))


class FaultTests(RedisScheduleTestCase):
    """Sessions that are lost, and errors."""

    def test_lost_answer(self) -> None:
        """If the answer about what is due is lost, nothing is published twice or left out."""
        self.add(self.one, every=0.5, count=20)
        for _ in range(3):
            self.redis.late = True
            self.cluster.pass_time(0.5)
            self.redis.lose()
            # Until both nodes have connected again.
            self.cluster.pass_time(2)
        self.cluster.pass_time(3)
        self.assertEqual(self.made, ["x"] * 20)

    def test_lost_claim(self) -> None:
        """If the session is lost while it is asked what is due, the next one is asked."""
        self.add(self.one, delay=1)
        self.redis.late = True
        # Each node asks once a second.
        self.cluster.pass_time(1.1)
        self.assertTrue(self.redis.waiting)
        self.redis.lose()
        self.cluster.pass_time(3)
        self.assertEqual(self.made, ["x"])

    def test_late_answer(self) -> None:
        """A late answer about schedules from a session that is over sets no timer."""
        self.redis.late = True
        scheduled = self.one.scheduled.add(Draft("t", "x"), delay=1)
        kept = scheduled.kept()
        self.redis.lose()
        self.assertIn("lost", str(self.failureResultOf(kept, Unavailable).value))
        self.cluster.pass_time(3)
        # It may have been kept, as it was here.
        self.assertEqual(self.made, ["x"])

    def test_other_session(self) -> None:
        """An answer that comes from a session after the next one has begun is counted only."""
        self.add(self.one, every=0.5, count=9)
        self.redis.late = True
        self.clock.advance(0)
        broker: Any = self.one.broker
        broker._reconnector.drop(broker._reconnector.session, "dropped")
        self.redis.answer()
        self.assertEqual((broker.published, len(self.made)), (1, 1))
        self.cluster.pass_time(8)
        self.assertEqual(len(self.made), 9)

    def test_start_later(self) -> None:
        """Schedules can be started when there is no session yet."""
        broker: Any = self.one.broker
        self.successResultOf(broker.schedules.stop())
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        self.one.scheduled.start()
        self.redis.trouble = None
        self.cluster.pass_time(3)
        self.add(self.one, delay=0.5)
        self.cluster.pass_time(1)
        self.assertEqual(self.made, ["x"])

    def test_without_redis(self) -> None:
        """Without a session, everything fails with the reason, and what is due waits."""
        self.add(self.one, delay=0.5)
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        for failed in (
            self.one.scheduled.add(Draft("t", "y"), delay=1).kept(),
            self.one.scheduled.all(),
            self.one.scheduled.describe("x"),
            self.one.scheduled.cancel("x"),
        ):
            self.failureResultOf(failed, Unavailable)
        self.cluster.pass_time(3)
        self.assertEqual(self.redis.history.names(), [])
        self.redis.trouble = None
        self.cluster.pass_time(5)
        self.assertEqual(self.made, ["x"])

    def test_nobody_waits(self) -> None:
        """If nobody waits for a schedule to be kept, it is logged that it is not."""
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        with capturedLogs() as events:
            scheduled = self.one.scheduled.add(Draft("t", "secret"), delay=1)
        (event,) = events
        self.assertEqual((event["event"], event["id"]), ("timed_push_refused", scheduled.id))
        self.assertNotIn("secret", str(events))
        # Who asks later is told as well.
        self.failureResultOf(scheduled.kept(), Unavailable)

    def test_limit(self) -> None:
        """At a limit the error says what all nodes have."""
        self.patch(limits, "MAX_SCHEDULED", 0)
        kept = self.one.scheduled.add(Draft("t", "x"), delay=1).kept()
        self.failureResultOf(kept, TooManyScheduled)

    def test_error(self) -> None:
        """While Redis returns errors, what is due is late, which is logged once."""
        self.add(self.one, delay=1)
        self.redis.refusal = "OOM command not allowed"
        with capturedLogs() as events:
            self.cluster.pass_time(4)
        self.assertEqual(self.redis.history.names(), [])
        late = [each for each in events if each.get("event") == "timed_push_late"]
        # One line from each node.
        self.assertEqual([each["error"] for each in late], ["OOM command not allowed"] * 2)
        kept = self.one.scheduled.add(Draft("t", "y"), delay=1).kept()
        self.assertIn("OOM", str(self.failureResultOf(kept, Unavailable).value))
        self.redis.refusal = None
        self.cluster.pass_time(2)
        self.assertEqual(self.made, ["x"])
        self.redis.refusal = "OOM again"
        with capturedLogs() as events:
            self.cluster.pass_time(2)
        self.redis.refusal = None
        self.assertEqual(len([each for each in events if "late" in each.get("event", "")]), 2)

    def test_error_while_publishing(self) -> None:
        """After an error about what is due, Redis is asked again within a second."""
        self.add(self.one, delay=1.5)
        self.cluster.pass_time(1.3)
        self.redis.refusal = "WRONGTYPE"
        with capturedLogs() as events:
            self.cluster.pass_time(0.3)
        self.assertEqual([each["error"] for each in events], ["WRONGTYPE"])
        self.redis.refusal = None
        self.cluster.pass_time(1)
        self.assertEqual(self.made, ["x"])

    def test_malformed(self) -> None:
        """An answer of another form is an error that names its probable cause."""
        self.add(self.one, delay=0.5)
        for answer in (b"x", [], [b"x"], [[b"x"]], 7):
            with self.subTest(answer), self.answers(answer):
                kept = self.one.scheduled.add(Draft("t", "y"), delay=1).kept()
                text = str(self.failureResultOf(kept, Unavailable).value)
                self.assertIn("another program", text)
        for answer in (b"x", [b"x"], 7):
            with self.answers(answer):
                described = self.one.scheduled.describe("x")
                self.failureResultOf(described, Unavailable)
        # What is due waits until the answers are ours again.
        for answer in (7, []):
            self.add(self.one, delay=0.3)
            with self.answers(answer), capturedLogs() as events:
                self.cluster.pass_time(1.5)
            (event,) = [each for each in events if each.get("event") == "timed_push_late"]
            self.assertIn("another program", event["error"])
            self.cluster.pass_time(1.5)
        with self.answers([]):
            self.assertIsNone(self.successResultOf(self.one.scheduled.describe("x")))

    def test_malformed_list(self) -> None:
        """So is a list of another form."""
        self.redis.sessions[0].run = lambda *_: succeed(7)  # type: ignore[method-assign]  # a server of another kind
        self.failureResultOf(self.one.scheduled.all(), Unavailable)
