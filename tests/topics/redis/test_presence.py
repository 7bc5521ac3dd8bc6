"""Presence of several nodes over a fake Redis: slow, lost, full or empty, as a test decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisUnavailable, Unavailable
from pushd.topics.history import Retention
from pushd.topics.presence import LINGER, Attendance, PresenceList
from pushd.topics.redis import presence as module
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.presence import BEAT, LIFE
from pushd.topics.redis.scripts import RedisNames
from tests.support.fake_redis import FakeRedis
from tests.support.hypothesis_settings import same_examples
from tests.support.presence import RecordingWatcher
from tests.support.presence_contract import PRESENCE_RULES, PresenceNode

CHANNEL = RedisNames().presence_channel("t")


class FakeCluster:
    """Nodes over one fake Redis."""

    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        self.redis = FakeRedis(self.clock)
        self.nodes: list[PresenceNode] = []
        self._numbers = count(1)

    def start(self) -> PresenceNode:
        """Start a node."""
        number = next(self._numbers)
        broker = RedisBroker(
            self.clock,
            self.redis.open,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: f"node{number}",
        )
        node = PresenceNode(broker, self.clock, f"n{number}")
        self.nodes.append(node)
        broker.start(lambda publication: None)
        self.clock.whenRunningHooks[-1][0]()
        return node

    def kill(self, node: PresenceNode) -> None:
        """End a node without a word."""
        self.nodes.remove(node)
        node.presence.stop()
        node.broker.stop()

    def stop(self) -> list[Any]:
        """Kill all nodes, and return the timers that are left."""
        for node in tuple(self.nodes):
            self.kill(node)
        self.redis.answer()
        self.redis.history.stop()
        self.clock.advance(0)
        return list(self.clock.getDelayedCalls())

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)

    async def start_presence(self) -> tuple[PresenceNode, PresenceNode]:
        """Start two nodes."""
        return self.start(), self.start()

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until a condition is true."""
        for _ in range(1000):
            if condition():
                return
            self.pass_time(0.1)
        raise AssertionError("it takes too long")

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.pass_time(seconds)


class ContractTests(SynchronousTestCase):
    """The contract of presence."""

    def test_rules(self) -> None:
        """Two nodes keep every rule."""
        for contract_rule in PRESENCE_RULES:
            with self.subTest(rule=contract_rule.__name__):
                cluster = FakeCluster()
                kept = Deferred.fromCoroutine(contract_rule(cluster))
                self.assertIsNone(self.successResultOf(kept))
                self.assertEqual(cluster.stop(), [])


class RedisPresenceTestCase(SynchronousTestCase):
    """Two nodes."""

    def setUp(self) -> None:
        """Start them, and check at the end that no timer is left."""
        self.cluster = FakeCluster()
        self.redis, self.clock = self.cluster.redis, self.cluster.clock
        self.one, self.two = self.cluster.start(), self.cluster.start()
        self.addCleanup(lambda: self.assertEqual(self.cluster.stop(), []))

    def listed(self, node: PresenceNode) -> PresenceList:
        """Return who is present."""
        listed: PresenceList = self.successResultOf(node.presence.describe("t"))
        return listed

    def names(self, node: PresenceNode) -> list[str]:
        """Return the names of those who are present."""
        subjects = self.listed(node).subjects
        assert subjects is not None
        return [one.subject or one.connection for one in subjects]

    def count(self, name: str) -> int:
        """Return how often a script was run."""
        return self.redis.asked.count(name)

    def send(self, **message: Any) -> None:
        """Send a message of another node."""
        self.redis.send_message(CHANNEL, json.dumps(message).encode())


class UseTests(RedisPresenceTestCase):
    """What is asked of Redis, and when."""

    def test_unused(self) -> None:
        """Without topics with presence, Redis is asked nothing."""
        self.cluster.pass_time(60)
        self.assertEqual(self.redis.asked, [])
        self.successResultOf(self.one.presence.leave())

    def test_used(self) -> None:
        """With one, a node beats every five seconds, and writes only what changes."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.assertEqual(self.redis.asked, ["beat", "share"])
        self.cluster.pass_time(60)
        self.assertEqual(self.redis.asked, ["beat", "share"] + ["beat"] * 12)

    def test_together(self) -> None:
        """What changes in one iteration of the reactor is written with one command."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        before = self.count("share")
        for number in range(50):
            self.one.presence.join(f"topic{number}", number)
        self.cluster.pass_time(1)
        self.assertEqual(self.count("share"), before + 1)

    def test_many(self) -> None:
        """Many topics and many subjects are written in portions, and all arrive."""
        self.patch(module, "_MAX_TOPICS", 3)
        self.patch(module, "_MAX_SUBJECTS", 4)
        watcher = self.two.watch()
        for number in range(10):
            self.one.join(f"s{number}")
            self.one.presence.join(f"topic{number}", number)
        self.cluster.pass_time(1)
        self.assertEqual(len(watcher.present), 10)
        self.redis.lose()
        self.cluster.pass_time(10)
        self.assertEqual(len(self.names(self.two)), 10)

    def test_written_while_writing(self) -> None:
        """What changes while Redis answers is written next."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.late = True
        self.one.join("bob")
        self.cluster.pass_time(1)
        self.one.join("cyd")
        self.cluster.pass_time(1)
        self.redis.answer()
        self.cluster.pass_time(1)
        self.assertEqual(self.names(self.two), ["ann", "bob", "cyd"])

    def test_touched(self) -> None:
        """What lasts is renewed in time, so that Redis does not forget it."""
        self.patch(module, "_TOUCH_BEATS", 4)
        self.one.join("ann")
        self.cluster.pass_time(1)
        before = self.count("share")
        self.cluster.pass_time(BEAT * 4)
        self.assertEqual(self.count("share"), before + 1)

    def test_empty(self) -> None:
        """A topic without subjects leaves nothing in Redis."""
        self.one.join("ann").leave()
        self.cluster.pass_time(LINGER + 1)
        self.assertEqual([one for one in self.redis.presence.hashes.values() if one], [])


class FollowTests(RedisPresenceTestCase):
    """What a node learns of the others."""

    def test_changes(self) -> None:
        """Changes are followed without reading again."""
        watcher = self.two.watch()
        self.cluster.pass_time(1)
        before = self.count("read presence")
        ann = self.one.join("ann")
        self.cluster.pass_time(1)
        ann.leave()
        self.cluster.pass_time(10)
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.assertEqual(watcher.events, ["=", "+ ann", "- ann", "+ ann"])
        # The first change of a node that has written anew is not told.
        self.assertLessEqual(self.count("read presence"), before + 1)

    def test_missing_change(self) -> None:
        """If a change is missing, everything is read again."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        before = self.count("read presence")
        [session] = [one for one in self.redis.sessions if CHANNEL in one.channels]
        session.channels.remove(CHANNEL)
        self.one.join("bob")
        self.cluster.pass_time(1)
        session.channels.append(CHANNEL)
        self.one.join("cyd")
        self.cluster.pass_time(1)
        self.assertEqual(watcher.present, {"ann", "bob", "cyd"})
        self.assertEqual(self.count("read presence"), before + 1)

    def test_old_change(self) -> None:
        """A change that was read already is ignored."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        before = self.count("read presence")
        self.send(node="node1", version=0, previous=0, subjects=1, changes={"sx": None})
        self.cluster.pass_time(1)
        self.assertEqual(watcher.present, {"ann"})
        self.assertEqual(self.count("read presence"), before)

    def test_change_while_reading(self) -> None:
        """What changes while Redis answers a read is not lost."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.late = True
        self.send(node="node1", version=99, previous=98, subjects=1, changes={})
        for place, subject in enumerate(("bob", "cyd")):
            self.one.join(subject)
            self.cluster.pass_time(1)
            if place == 0:
                self.answer_write()
        self.redis.answer()
        self.cluster.pass_time(1)
        self.assertEqual(watcher.present, {"ann", "bob", "cyd"})

    def answer_write(self) -> None:
        """Answer what was asked last."""
        waiting, answer = self.redis.waiting.pop()
        waiting.callback(answer)

    def test_change_before_the_first_read(self) -> None:
        """What changes before the first answer of a session is read once more."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.two.presence.join("u", 1)
        self.cluster.pass_time(1)
        watcher = self.two.watch()
        self.redis.late = True
        watching = self.two.presence
        self.cluster.pass_time(1)
        self.redis.late = False
        self.send(node="node1", version=99, previous=98, subjects=1, changes={})
        self.redis.answer()
        self.cluster.pass_time(1)
        self.assertEqual(watcher.present, {"ann"})
        assert watching is self.two.presence

    def test_unwatched_while_reading(self) -> None:
        """A topic that is not watched any more when Redis answers is forgotten."""
        for refusal in (None, "OOM"):
            watch = self.two.presence.watch("t", RecordingWatcher())
            self.cluster.pass_time(1)
            self.redis.late, self.redis.refusal = True, refusal
            self.send(node="m", version=9, previous=8, subjects=1, changes={})
            self.cluster.pass_time(1)
            watch.cancel()
            self.cluster.pass_time(31)
            self.redis.refusal = None
            self.redis.answer()
            self.cluster.pass_time(1)
            self.assertIsNone(self.two.presence.known("t"))

    def test_unwatched_while_subscribing(self) -> None:
        """A topic that is not watched any more when its channel is subscribed to is not read."""
        self.two.presence.join("u", 1)
        self.cluster.pass_time(1)
        self.redis.late = True
        watch = self.two.presence.watch("t", RecordingWatcher())
        self.cluster.pass_time(1)
        watch.cancel()
        self.cluster.pass_time(31)
        self.redis.answer()
        self.cluster.pass_time(1)
        self.assertEqual(self.count("read presence"), 0)

    def test_unwatched_without_redis(self) -> None:
        """A topic can be unwatched while Redis is away."""
        watch = self.two.presence.watch("t", RecordingWatcher())
        self.cluster.pass_time(1)
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        watch.cancel()
        self.cluster.pass_time(31)
        self.assertIsNone(self.two.presence.known("t"))

    def test_malformed(self) -> None:
        """Messages of other programs are logged, and change nothing."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        change = {"version": 99, "previous": 1, "subjects": 1}
        with capturedLogs() as logs:
            for message in (b"x", b"[]", b'{"node": "node1"}', b'{"node": "m", "version": "1"}'):
                self.redis.send_message(CHANNEL, message)
            for value in ([1], [1, "x", [], 0, None], ["x", "y", 1, 0, None]):
                self.send(node="m", **{**change, "previous": 0}, changes={"k": value})
        self.assertEqual({one["log_namespace"] for one in logs}, {"pushd.topics"})
        self.assertEqual([one["event"] for one in logs], ["broker_misused"] * 7)
        self.cluster.pass_time(1)
        self.assertEqual(watcher.present, {"ann"})

    def test_unexpected_answer(self) -> None:
        """An answer of another form is an error, and a list with deleted fields is read."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.presence.hashes["pushd:{t}:present:node1"]["sbob"] = "null"
        self.assertEqual(self.names(self.two), ["ann"])
        self.redis.presence.hashes["pushd:{t}:present"]["node1"] = "1 1"
        with self.assertRaises(Unavailable):
            raise self.failureResultOf(self.two.presence.describe("t")).value

    def test_not_connected(self) -> None:
        """Without a session, another topic cannot be described; one that is watched can."""
        self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        self.assertEqual(self.names(self.two), ["ann"])
        failure = self.failureResultOf(self.one.presence.describe("t"), Unavailable)
        self.assertIn("Redis at it", str(failure.value))

    def test_counted(self) -> None:
        """If the others have too many subjects, they are counted, and read with each beat."""
        watcher = self.two.watch()
        for number in range(21):
            self.one.join(f"s{number}")
        self.cluster.pass_time(1)
        self.assertEqual(watcher.events[-1], "# 21 21")
        before = self.count("read presence")
        for number in range(21, 30):
            self.one.join(f"s{number}")
            self.cluster.pass_time(1)
        self.assertLessEqual(self.count("read presence"), before + 2)
        self.cluster.pass_time(10)
        self.assertEqual(watcher.events[-1], "# 30 30")
        self.assertEqual(self.listed(self.two).count, 30)


class FaultTests(RedisPresenceTestCase):
    """Nodes that die, and a Redis that fails."""

    def test_death(self) -> None:
        """A node that dies is forgotten within 30 seconds, and its data deleted."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.two.join("bob")
        self.cluster.pass_time(7)
        self.cluster.kill(self.one)
        self.cluster.pass_time(LIFE - BEAT - 1)
        self.assertEqual(watcher.present, {"ann", "bob"})
        self.cluster.pass_time(30 - LIFE + BEAT + 1)
        self.assertEqual(watcher.present, {"bob"})
        self.assertEqual(watcher.events[-1], "- ann")
        self.assertFalse(self.redis.presence.hashes["pushd:{t}:present"].keys() - {"node2"})

    def test_death_and_reconnect(self) -> None:
        """A subject that reconnects from a dead node to another one neither leaves nor joins."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.cluster.kill(self.one)
        self.cluster.pass_time(3)
        self.two.join("ann")
        self.cluster.pass_time(60)
        self.assertEqual(watcher.events.count("- ann"), 0)
        self.assertEqual(self.names(self.two), ["ann"])

    def test_stop(self) -> None:
        """A node that stops is forgotten within ten seconds."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.successResultOf(self.one.presence.leave())
        self.cluster.kill(self.one)
        self.cluster.pass_time(4)
        self.assertEqual(watcher.present, {"ann"})
        self.cluster.pass_time(6)
        self.assertEqual(watcher.present, set())

    def test_stop_without_redis(self) -> None:
        """A node stops, whatever Redis answers."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.refusal = "OOM"
        self.assertIsNone(self.successResultOf(self.one.presence.leave()))
        self.assertIsNone(self.successResultOf(self.one.presence.leave()))

    def test_reconnect(self) -> None:
        """After a reconnect all is as before, and nobody is told."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        before = list(watcher.events)
        self.redis.lose()
        self.cluster.pass_time(20)
        self.assertEqual(watcher.events, before)
        self.one.join("bob")
        self.cluster.pass_time(1)
        self.assertEqual(watcher.events, [*before, "+ bob"])

    def test_data_lost(self) -> None:
        """A Redis that has lost its data gets it anew, and nobody is told."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.two.join("bob")
        self.cluster.pass_time(1)
        before = list(watcher.events)
        self.redis.forget()
        self.redis.lose()
        self.cluster.pass_time(20)
        self.assertEqual(watcher.events, before)
        self.assertEqual(self.names(self.one), ["ann", "bob"])

    def test_forgotten_node(self) -> None:
        """A node that was forgotten, as it stood still, writes everything anew."""
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.presence.nodes.clear()
        self.redis.presence.hashes.clear()
        self.cluster.pass_time(BEAT + 1)
        self.assertEqual(self.names(self.two), ["ann"])

    def test_dead_while_away(self) -> None:
        """A node that dies while Redis is away is forgotten soon after the others are back."""
        watcher = self.two.watch()
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.trouble = RedisUnavailable("no route")
        self.redis.lose()
        self.cluster.kill(self.one)
        self.cluster.pass_time(60)
        self.redis.trouble = None
        self.cluster.pass_time(8)
        self.assertEqual(watcher.present, {"ann"})
        self.cluster.pass_time(20)
        self.assertEqual(watcher.present, set())

    def test_refused(self) -> None:
        """Errors of Redis are logged once, and everything is repeated until it is done."""
        self.redis.refusal = "OOM command not allowed"
        with capturedLogs() as logs:
            watcher = self.two.watch()
            self.one.join("ann")
            self.cluster.pass_time(5)
        events = [one["event"] for one in logs]
        self.assertEqual(events, ["presence_refused"] * 2)
        self.redis.refusal = None
        self.cluster.pass_time(3)
        self.redis.refusal = "OOM command not allowed"
        self.one.join("bob")
        self.send(node="node1", version=99, previous=98, subjects=1, changes={})
        self.cluster.pass_time(12)
        self.redis.refusal = None
        self.cluster.pass_time(8)
        self.assertEqual(watcher.present, {"ann", "bob"})

    def test_lost_while_beating(self) -> None:
        """A beat, a write and a read that are not answered are repeated in the next session."""
        watcher = self.two.watch()
        self.redis.late = True
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.redis.lose()
        self.cluster.pass_time(10)
        self.redis.late = True
        self.one.join("bob")
        self.two.presence.watch("u", RecordingWatcher())
        self.cluster.pass_time(6)
        self.redis.lose()
        self.cluster.pass_time(20)
        self.assertEqual(watcher.present, {"ann", "bob"})

    def test_answered_after_the_end(self) -> None:
        """An answer to a beat that comes after the stop starts nothing."""
        self.redis.late = True
        self.one.join("ann")
        self.cluster.pass_time(1)
        self.one.presence.stop()
        self.redis.answer()
        self.cluster.pass_time(10)
        self.assertEqual(self.count("share"), 0)


SUBJECTS = st.sampled_from(["ann", "bob", "cyd"])
NODES = st.integers(0, 2)


class RedisPresenceMachine(RuleBasedStateMachine):
    """Joins, leaves, reconnects, deaths of nodes and faults of Redis in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = FakeCluster()
        self.nodes = [self.cluster.start() for _ in range(3)]
        # Open connections: their node, subject and attendance.
        self.open: list[tuple[PresenceNode, str, Attendance]] = []
        self.watchers: list[tuple[PresenceNode, RecordingWatcher]] = []

    @rule(node=NODES, subject=SUBJECTS)
    def join(self, node: int, subject: str) -> None:
        """A connection joins."""
        chosen = self.nodes[node]
        self.open.append((chosen, subject, chosen.join(subject)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A connection leaves."""
        self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))[2].leave()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), node=NODES, seconds=st.sampled_from([0.1, 2, 4]))
    def move(self, data: st.DataObject, node: int, seconds: float) -> None:
        """A connection is lost, and its client reconnects to any node in time."""
        _, subject, attendance = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        moving = (self.nodes[node], subject, attendance)
        self.open.append(moving)  # It counts as present all the while.
        attendance.leave()
        self.cluster.pass_time(seconds)
        self.open.remove(moving)
        self.open.append((self.nodes[node], subject, self.nodes[node].join(subject)))

    @rule(node=NODES)
    def watch(self, node: int) -> None:
        """A watcher comes."""
        chosen = self.nodes[node]
        watcher = chosen.watch()
        watcher.react = lambda: self.check_last(watcher)
        self.watchers.append((chosen, watcher))

    def check_last(self, watcher: RecordingWatcher) -> None:
        """Nobody is said to leave who has been here all the while."""
        last = watcher.events[-1]
        if last.startswith("- "):
            assert last[2:] not in [subject for _, subject, _ in self.open], watcher.events

    @rule(node=NODES)
    def die(self, node: int) -> None:
        """A node dies, and another one is started in its place."""
        dead = self.nodes[node]
        self.open = [one for one in self.open if one[0] is not dead]
        self.watchers = [one for one in self.watchers if one[0] is not dead]
        self.cluster.kill(dead)
        self.nodes[node] = self.cluster.start()

    @rule(seconds=st.sampled_from([0, 3, 40]), forgets=st.booleans())
    def lose_redis(self, seconds: float, forgets: bool) -> None:
        """Redis is away, and may have lost its data."""
        self.cluster.redis.trouble = RedisUnavailable("away")
        self.cluster.redis.lose()
        self.cluster.pass_time(seconds)
        if forgets:
            self.cluster.redis.forget()
        self.cluster.redis.trouble = None
        if not self.open:
            return
        self.cluster.pass_time(12)

    @rule(seconds=st.sampled_from([0.1, 1, 3, 6]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.cluster.pass_time(seconds)

    @rule()
    def settle(self) -> None:
        """If nothing changes for 45 seconds, all nodes and watchers know who is present."""
        self.cluster.pass_time(45)
        expected = {subject for _, subject, _ in self.open}
        for _, watcher in self.watchers:
            assert watcher.present == expected
        for node in self.nodes:
            listed: list[PresenceList] = []
            node.presence.describe("t").addCallback(listed.append)
            subjects = listed[0].subjects
            assert subjects is not None
            assert {one.subject for one in subjects} == expected
            assert listed[0].connections == len(self.open)

    def teardown(self) -> None:
        """Stop; no timer is left."""
        assert self.cluster.stop() == []


RedisPresenceMachine.TestCase.settings = same_examples(max_examples=30)
RedisPresencePropertyTests = RedisPresenceMachine.TestCase
