"""Presence at one node: who joins, leaves, lingers and is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.topics.broker import MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.presence import (
    COUNTS_ONLY,
    LINGER,
    Attendance,
    ConnectionChange,
    LocalPresence,
    Notice,
    Others,
    Presence,
    PresenceList,
    Present,
    Watch,
)
from tests.support.hub_case import iterate
from tests.support.hypothesis_settings import same_examples
from tests.support.presence import RecordingWatcher
from tests.support.presence_contract import PRESENCE_RULES, PresenceNode


class FakeExchange:
    """An exchange with other nodes that a test plays."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.local: LocalPresence | None = None
        self.others = Others({})

    def start(self, local: LocalPresence) -> None:
        """Record who starts it."""
        self.local = local

    def share(self, topic: str, key: str) -> None:
        """Record the call."""
        self.calls.append(f"share {topic} {key}")

    def follow(self, topic: str) -> None:
        """Record the call."""
        self.calls.append(f"follow {topic}")

    def unfollow(self, topic: str) -> None:
        """Record the call."""
        self.calls.append(f"unfollow {topic}")

    def read(self, topic: str, limit: int) -> Deferred[Others]:
        """Return the others."""
        self.calls.append(f"read {topic} {limit}")
        return succeed(self.others)

    def leave(self) -> Deferred[None]:
        """Record the call."""
        self.calls.append("leave")
        return succeed(None)

    def stop(self) -> None:
        """Record the call."""
        self.calls.append("stop")


class PresenceTestCase(SynchronousTestCase):
    """The presence of one node."""

    exchange: FakeExchange | None = None

    def setUp(self) -> None:
        """Make it, and check at the end that it leaves no timer."""
        self.clock = Clock()
        self.limits = Limits(max_present=3)
        self.presence = Presence(self.clock, self.limits, "n", self.exchange)
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(self.presence.stop)
        self.number = 0

    def join(self, subject: str | None = None, **settings: Any) -> Attendance:
        """Let a new connection join."""
        self.number += 1
        return self.presence.join("t", self.number, subject=subject, **settings)

    def watch(self) -> tuple[RecordingWatcher, Watch]:
        """Let a new watcher watch."""
        watcher = RecordingWatcher()
        return watcher, self.presence.watch("t", watcher)

    def list(self, topic: str = "t") -> PresenceList:
        """Return who is present."""
        listed: PresenceList = self.successResultOf(self.presence.describe(topic))
        return listed

    def pass_time(self, *steps: float) -> None:
        """Let time pass, with all that happens in it."""
        for step in steps:
            self.clock.advance(step)
            self.clock.advance(0)


class ListTests(PresenceTestCase):
    """Who is listed."""

    def test_nobody(self) -> None:
        """A topic without subjects has an empty list."""
        self.assertEqual(self.list(), PresenceList("t", (), 0, 0))

    def test_one_subject_with_three_connections(self) -> None:
        """Connections of one subject are one subject; the newest says its info."""
        self.join("alice", info={"name": "A"})
        self.join("alice", info={"name": "Alice"})
        self.join("alice", client="tab", info={"name": "Alicia"})
        alice = Present("alice", "n.1", ("n.1", "n.2", "tab"), 3, {"name": "Alicia"})
        self.assertEqual(self.list(), PresenceList("t", (alice,), 1, 3))

    def test_without_subject(self) -> None:
        """Without a subject, each connection is one of its own; a client may name it."""
        self.join()
        self.join("")
        self.join(client="tab")
        again = self.join(client="tab")
        subjects = self.list().subjects
        assert subjects is not None
        self.assertEqual([one.connections for one in subjects], [("n.1",), ("n.2",), ("tab",)])
        self.assertEqual([one.subject for one in subjects], [None] * 3)
        again.leave()
        self.assertEqual(self.list().connections, 3)

    def test_subject_named_like_a_connection(self) -> None:
        """A subject is never taken for a client that has named itself so."""
        self.join("tab")
        self.join(client="tab")
        self.assertEqual(self.list().count, 2)

    def test_topics_are_separate(self) -> None:
        """Who listens to one topic does not listen to another."""
        self.join("alice")
        self.assertEqual(self.list("u").count, 0)

    def test_lingering(self) -> None:
        """A subject without connections is present for five seconds more."""
        attendance = self.join("alice")
        attendance.leave()
        attendance.leave()
        self.pass_time(LINGER - 0.01)
        listed = self.list()
        self.assertEqual((listed.count, listed.connections), (1, 0))
        self.pass_time(0.01)
        self.assertEqual(self.list().count, 0)

    def test_coming_back(self) -> None:
        """A subject that comes back in time is present all the while, under its old name."""
        self.join(client="tab").leave()
        self.pass_time(4)
        self.join(client="tab")
        self.pass_time(60)
        listed = self.list()
        self.assertEqual((listed.count, listed.connections), (1, 1))

    def test_beyond_the_limit(self) -> None:
        """Beyond the limit there are counts only; a reload can change it."""
        for subject in "abcd":
            self.join(subject)
        self.assertEqual(self.list(), PresenceList("t", None, 4, 4))
        self.limits.max_present = 4
        self.assertEqual(self.list().count, len(self.list().subjects or ()))

    def test_many_connections(self) -> None:
        """Of a subject's connections, a hundred are listed and all are counted."""
        for _ in range(150):
            self.join("alice")
        listed = self.list()
        assert listed.subjects is not None
        self.assertEqual(len(listed.subjects[0].connections), 100)
        self.assertEqual((listed.subjects[0].count, listed.connections), (150, 150))

    def test_version(self) -> None:
        """The version changes when a subject joins or leaves, and at no other time."""
        empty = self.list().version
        self.join("alice")
        one = self.list().version
        self.join("alice")
        self.assertEqual(self.list().version, one)
        self.join("bob").leave()
        two = self.list().version
        self.pass_time(LINGER)
        self.assertEqual(self.list().version, one)
        self.assertEqual(len({empty, one, two}), 3)
        for subject in "abcd":
            self.join(subject)
        self.assertEqual(self.list().version, COUNTS_ONLY)

    def test_after_the_stop(self) -> None:
        """What ends after the stop does no harm."""
        attendance = self.join("alice")
        watcher, watch = self.watch()
        self.presence.stop()
        attendance.leave()
        watch.resume()
        watch.cancel()
        self.assertEqual(watcher.events, [])

    def test_alone(self) -> None:
        """Without other nodes, there is no one to tell about the stop."""
        self.assertIsNone(self.successResultOf(self.presence.leave()))
        self.assertEqual(self.presence.topics(), [])


class WatcherTests(PresenceTestCase):
    """What watchers are told."""

    def test_list_then_changes(self) -> None:
        """A watcher gets the whole list, then who joins and leaves."""
        self.join("alice")
        watcher, _ = self.watch()
        self.pass_time(0)
        bob = self.join("bob")
        self.pass_time(0.1)
        bob.leave()
        self.pass_time(LINGER, 1)
        self.assertEqual(watcher.events, ["= alice", "+ bob", "- bob"])

    def test_connections_are_not_told(self) -> None:
        """Another connection, and a subject that comes back in time, are not told."""
        attendance = self.join("alice")
        watcher, _ = self.watch()
        self.pass_time(0)
        self.join("alice").leave()
        self.pass_time(1)
        attendance.leave()
        self.pass_time(4)
        self.join("alice")
        self.pass_time(20)
        self.assertEqual(watcher.events, ["= alice"])

    def test_itself(self) -> None:
        """One that joins and watches finds itself in the list, and is not told again."""
        first, _ = self.watch()
        self.pass_time(0)
        self.join("alice")
        second, _ = self.watch()
        self.pass_time(0.1, 1)
        self.assertEqual(first.events, ["=", "+ alice"])
        self.assertEqual(second.events, ["= alice"])

    def test_changes_together(self) -> None:
        """What changes within a tenth of a second is told together."""
        watcher, _ = self.watch()
        self.pass_time(0)
        notices = 0

        def count() -> None:
            nonlocal notices
            notices += 1

        watcher.react = count
        for subject in "cab":
            self.join(subject)
            self.pass_time(0.03)
        self.pass_time(0.01, 1)
        self.assertEqual(watcher.events, ["=", "+ a", "+ b", "+ c"])
        self.assertEqual(notices, 1)

    def test_no_room(self) -> None:
        """A watcher without room gets the whole list once it has room, and is not waited for."""
        slow, watch = self.watch()
        fast, _ = self.watch()
        self.pass_time(0)
        slow.room = False
        self.join("alice")
        self.pass_time(0.1)
        self.join("bob")
        self.pass_time(0.1)
        slow.room = True
        self.pass_time(1)
        self.assertEqual(slow.events, ["="])
        watch.resume()
        watch.resume()
        self.pass_time(0)
        self.join("carol")
        self.pass_time(1)
        self.assertEqual(slow.events, ["=", "= alice bob", "+ carol"])
        self.assertEqual(fast.events, ["=", "+ alice", "+ bob", "+ carol"])

    def test_cancelled(self) -> None:
        """A watcher is told nothing after it was cancelled; another one begins anew."""
        watcher, watch = self.watch()
        self.pass_time(0)
        self.join("alice")
        watch.cancel()
        watch.cancel()
        watch.resume()
        self.pass_time(1)
        self.assertEqual(watcher.events, ["="])
        other, _ = self.watch()
        self.pass_time(0)
        self.assertEqual(other.events, ["= alice"])

    def test_cancelled_by_another(self) -> None:
        """A watcher may be cancelled by what another one is told, or by itself."""
        first, one = self.watch()
        second, two = self.watch()

        def cancel() -> None:
            one.cancel()
            two.cancel()

        first.react = cancel
        self.pass_time(0, 1)
        self.assertEqual((first.events, second.events), (["="], []))

    def test_last_without_room(self) -> None:
        """A watcher that ends because it has no room is not kept."""
        watcher, watch = self.watch()

        class Ending(RecordingWatcher):
            def notify(self, notice: Notice) -> bool:
                ended.cancel()
                return False

        ended = self.presence.watch("t", Ending())
        self.pass_time(0)
        watch.cancel()
        self.join("alice")
        self.assertEqual(watcher.events, ["="])

    def test_failing(self) -> None:
        """A watcher that fails is logged, and the others are told."""

        class Failing(RecordingWatcher):
            def notify(self, notice: Notice) -> bool:
                raise RuntimeError("failing")

        self.presence.watch("t", Failing())
        watcher, _ = self.watch()
        self.pass_time(0)
        self.assertEqual(watcher.events, ["="])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_portions(self) -> None:
        """Thousands of watchers are told in portions, and none is left out."""
        watchers = [self.watch()[0] for _ in range(1200)]
        iterate(self.clock)
        self.assertEqual(sum(bool(one.events) for one in watchers), 500)
        self.join("alice")
        iterate(self.clock)
        iterate(self.clock)
        self.assertEqual(sum(bool(one.events) for one in watchers), 1200)
        self.pass_time(0.1, 0, 0)
        self.assertEqual({tuple(one.events) for one in watchers}, {("=", "+ alice")})

    def test_rendered_once(self) -> None:
        """A notice is rendered once for all watchers of a form."""
        notice, calls = Notice(()), []

        def form(events: Any) -> bytes:
            calls.append(events)
            return b"x"

        self.assertEqual([notice.render(form), notice.render(form)], [b"x", b"x"])
        self.assertEqual(len(calls), 1)

    def test_beyond_the_limit(self) -> None:
        """Beyond the limit, watchers get counts every five seconds at most, later the list."""
        watcher, _ = self.watch()
        self.pass_time(0)
        attendances = [self.join(subject) for subject in "abcd"]
        self.pass_time(0.1)
        self.assertEqual(watcher.events, ["=", "# 4 4"])
        attendances += [self.join(subject) for subject in "ef"]
        self.pass_time(1)
        newest, _ = self.watch()
        self.pass_time(0)
        self.assertEqual(newest.events, ["# 6 6"])
        self.pass_time(3.9)
        self.assertEqual(watcher.events, ["=", "# 4 4"])
        self.pass_time(0.1)
        self.assertEqual(watcher.events, ["=", "# 4 4", "# 6 6"])
        for attendance in attendances[3:]:
            attendance.leave()
        self.pass_time(10, 0.1, 5, 0.1)
        self.assertEqual(watcher.events[-1], "= a b c")
        self.assertEqual(newest.present, {"a", "b", "c"})


class ExchangeTests(PresenceTestCase):
    """What an exchange is told, and what it tells."""

    def setUp(self) -> None:
        """Make a presence with an exchange."""
        self.exchange = FakeExchange()
        super().setUp()

    def test_shared(self) -> None:
        """The exchange is told whenever this node's part of a subject changes, and can read it."""
        assert self.exchange is not None
        assert self.exchange.local is self.presence
        self.join("alice").leave()
        self.join()
        self.assertEqual(self.exchange.calls, ["share t salice", "share t salice", "share t cn.2"])
        self.assertEqual(self.presence.topics(), ["t"])
        self.assertEqual(self.presence.counts("t"), (2, 1))
        self.assertEqual(self.presence.counts("u"), (0, 0))
        self.assertEqual(list(self.presence.part("t")), ["salice", "cn.2"])
        self.assertEqual(self.presence.part("u"), {})
        self.assertEqual(self.presence.find("t", "cn.2"), self.presence.part("t")["cn.2"])
        self.assertIsNone(self.presence.find("t", "sbob"))
        self.assertIsNone(self.presence.find("u", "sbob"))
        self.pass_time(LINGER)
        self.assertEqual(self.exchange.calls[3:], ["share t salice"])
        self.assertIsNone(self.presence.find("t", "salice"))
        self.successResultOf(self.presence.leave())
        self.assertEqual(self.exchange.calls[4:], ["leave"])

    def test_asked(self) -> None:
        """Of a topic that is not watched, the other nodes are asked."""
        assert self.exchange is not None
        self.join("alice", info="here")
        alice = Present("alice", "m.9", ("m.9",), 1, "there")
        bob = Present("bob", "m.8", ("m.8", "m.7"), 2)
        self.exchange.others = Others({"m": {"salice": alice, "sbob": bob}})
        both = Present("alice", "n.1", ("n.1", "m.9"), 2, "here")
        self.assertIsNone(self.presence.known("t"))
        self.assertEqual(self.list(), PresenceList("t", (both, bob), 2, 4))
        self.assertEqual(self.list("u"), PresenceList("u", (alice, bob), 2, 3))
        self.exchange.others = Others({}, (4, 5))
        self.assertEqual(self.list(), PresenceList("t", None, 5, 6))
        self.assertEqual(self.exchange.calls[-1], "read t 3")

    def test_followed(self) -> None:
        """A topic is followed at the others until half a minute after its last watcher left."""
        assert self.exchange is not None
        watcher, watch = self.watch()
        self.join("alice")
        self.pass_time(1)
        self.assertEqual(watcher.events, [])
        self.assertIsNone(self.presence.known("t"))
        bob = Present("bob", "m.1", ("m.1",), 1)
        self.presence.others_read("t", Others({"m": {"sbob": bob}}))
        self.pass_time(0)
        self.assertEqual(watcher.events, ["= alice bob"])
        watch.cancel()
        self.pass_time(29)
        self.assertEqual(self.list().count, 2)
        other, again = self.watch()
        self.pass_time(60)
        self.assertEqual(other.events, ["= alice bob"])
        again.cancel()
        self.pass_time(30)
        self.assertEqual(self.exchange.calls, ["follow t", "share t salice", "unfollow t"])
        self.assertIsNone(self.presence.known("t"))

    def test_forgotten(self) -> None:
        """A topic without subjects that is not followed any more is forgotten."""
        _, watch = self.watch()
        watch.cancel()
        self.pass_time(30)
        self.assertEqual(self.presence._topics, {})

    def test_over_all_nodes(self) -> None:
        """A subject leaves once no node has it any more, and joins only once."""
        watcher, _ = self.watch()
        self.presence.others_read("t", Others({}))
        self.pass_time(0)
        alice = Present("alice", "m.1", ("m.1",), 1)
        self.presence.other_changed("t", "m", {"salice": alice})
        self.pass_time(0.1)
        self.join("alice").leave()
        self.presence.other_changed("t", "m", {"salice": None, "sbob": None})
        self.pass_time(1)
        self.assertEqual(watcher.events, ["=", "+ alice"])
        self.pass_time(LINGER, 0.1)
        self.assertEqual(watcher.events, ["=", "+ alice", "- alice"])
        self.presence.others_read("t", Others({"m": {"salice": alice}}))
        self.pass_time(0.1)
        self.presence.others_read("t", Others({"o": {"salice": alice}}))
        self.pass_time(0.1)
        self.presence.others_read("t", Others({}))
        self.pass_time(0.1)
        self.assertEqual(watcher.events[3:], ["+ alice", "- alice"])

    def test_counted(self) -> None:
        """If the others are too many to list, there are counts only."""
        watcher, _ = self.watch()
        self.join("alice")
        self.presence.others_read("t", Others({}, (10, 11)))
        self.pass_time(0)
        self.assertEqual(watcher.events, ["# 11 12"])
        self.presence.others_read("t", Others({}, (12, 13)))
        self.pass_time(5)
        self.assertEqual(watcher.events, ["# 11 12", "# 13 14"])

    def test_stopped(self) -> None:
        """The exchange stops with the presence."""
        assert self.exchange is not None
        _, watch = self.watch()
        watch.cancel()
        self.join("alice").leave()
        self.presence.stop()
        self.assertEqual(self.exchange.calls[-1], "stop")


class ListenerTests(PresenceTestCase):
    """Watchers of connections."""

    def setUp(self) -> None:
        """Let the test play the other nodes."""
        self.exchange = FakeExchange()
        super().setUp()

    def listen(self) -> tuple[list[str], Watch]:
        """Watch the connections of the topic; return what is told, and the watch."""
        told: list[str] = []

        class Listener:
            def notify(self, notice: Notice) -> bool:
                for event in notice.events:
                    assert isinstance(event, ConnectionChange)
                    told.append(f"{'+' if event.joined else '-'} {event.connection}")
                return True

        return told, self.presence.watch("t", Listener(), connections=True)

    def test_own(self) -> None:
        """Each connection is told, those of one subject among them."""
        told, watch = self.listen()
        other, _ = self.listen()
        self.presence.others_read("t", Others({}))
        one = self.join("ann", client="a")
        self.join("ann", client="b")
        self.join("ann", client="b")
        one.leave()
        self.pass_time(0.2)
        self.assertEqual(told, ["+ a", "+ b", "- a"])
        watch.cancel()
        self.join("bob", client="c")
        self.pass_time(0.2)
        self.assertEqual((told[3:], other[3:]), ([], ["+ c"]))

    def test_others(self) -> None:
        """So are those of other nodes; what was there before is not."""
        told, _ = self.listen()
        ann = Present("ann", "a", ("a", "b"), 2)
        bob = Present("bob", "c", ("c",), 1)
        self.presence.others_read("t", Others({"x": {"sann": ann}}))
        self.pass_time(0.2)
        self.assertEqual(told, [])
        fewer = Present("ann", "a", ("b", "d"), 2)
        self.presence.other_changed("t", "x", {"sann": fewer, "sbob": bob})
        self.pass_time(0.2)
        self.assertEqual(told, ["- a", "+ d", "+ c"])
        self.presence.other_changed("t", "x", {"sbob": None})
        self.presence.others_read("t", Others({"y": {"sbob": bob}}))
        self.pass_time(0.2)
        self.assertEqual(told[3:], ["- c", "- b", "- d", "+ c"])

    def test_beside_watchers(self) -> None:
        """Watchers of subjects are told as if there were no others."""
        told, watch = self.listen()
        watcher, other = self.watch()
        self.presence.others_read("t", Others({}))
        self.join("ann", client="a")
        self.pass_time(0.2)
        self.assertEqual((told, watcher.events), (["+ a"], ["= ann"]))
        other.cancel()
        self.join("ann", client="b")
        self.pass_time(0.2)
        self.assertEqual(told, ["+ a", "+ b"])
        watcher, other = self.watch()
        watch.cancel()
        self.join("bob", client="c")
        self.pass_time(0.2)
        self.assertEqual(watcher.events[-1], "= ann bob")
        other.cancel()


class MemoryCluster:
    """One node in both roles."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self.clock = Clock()
        self._case = case

    async def start_presence(self) -> tuple[PresenceNode, PresenceNode]:
        """Start the node."""
        history = History(self.clock, Retention(), lambda: "e")
        node = PresenceNode(MemoryBroker(self.clock, history), self.clock, "n")
        self._case.addCleanup(node.presence.stop)
        return node, node

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until a condition is true."""
        for _ in range(1000):
            if condition():
                return
            await self.wait(0.1)
        raise AssertionError("it takes too long")

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.clock.advance(0)


class ContractTests(SynchronousTestCase):
    """The contract of presence, in memory."""

    def test_rules(self) -> None:
        """A single node keeps every rule."""
        for contract_rule in PRESENCE_RULES:
            with self.subTest(rule=contract_rule.__name__):
                kept = Deferred.fromCoroutine(contract_rule(MemoryCluster(self)))
                self.assertIsNone(self.successResultOf(kept))


SUBJECTS = st.sampled_from(["alice", "bob", "carol", "dave", None])
CLIENTS = st.sampled_from([None, "tab"])


class PresenceMachine(RuleBasedStateMachine):
    """Joins, leaves, reconnects and watchers in any order, against the rules in plain."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.presence = Presence(self.clock, Limits(max_present=4), "n", None)
        self.number = 0
        # Connections that are open, and when each subject had its last one.
        self.open: list[tuple[str, Attendance]] = []
        self.left: dict[str, float] = {}
        self.watchers: list[tuple[RecordingWatcher, Watch]] = []

    @rule(subject=SUBJECTS, client=CLIENTS)
    def join(self, subject: str | None, client: str | None) -> None:
        """A connection joins."""
        self.number += 1
        attendance = self.presence.join("t", self.number, subject=subject, client=client)
        self.open.append((subject or client or f"n.{self.number}", attendance))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A connection leaves."""
        name, attendance = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        attendance.leave()
        if name not in [one for one, _ in self.open]:
            self.left[name] = self.clock.seconds()

    @rule()
    def watch(self) -> None:
        """A watcher comes."""
        watcher = RecordingWatcher()
        self.watchers.append((watcher, self.presence.watch("t", watcher)))

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        """A watcher goes."""
        place = data.draw(st.integers(0, len(self.watchers) - 1))
        self.watchers.pop(place)[1].cancel()

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        """A watcher has no room any more, or has room again."""
        watcher, watch = self.watchers[data.draw(st.integers(0, len(self.watchers) - 1))]
        watcher.room = not watcher.room
        if watcher.room:
            watch.resume()

    @rule(seconds=st.sampled_from([0, 0.05, 0.1, 1, 3, 5]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)
        self.clock.advance(0)

    @rule()
    def settle(self) -> None:
        """A watcher with room knows who is present, once subjects left and counts have come."""
        for _ in range(120):
            self.clock.advance(0.1)
        expected, listed = self.names(), self.presence.known("t")
        assert listed is not None
        for watcher, _ in self.watchers:
            if watcher.room:
                assert watcher.present == (set() if listed.subjects is None else expected)
                assert watcher.listed is not None
                if listed.subjects is None:
                    assert watcher.listed.count == listed.count

    @invariant()
    def is_listed(self) -> None:
        """Who is listed has a connection, or had its last one less than five seconds ago."""
        listed = self.presence.known("t")
        assert listed is not None
        assert listed.count == len(self.names())
        assert (listed.subjects is None) == (listed.count > 4)
        if listed.subjects is not None:
            names = {one.subject or one.connection for one in listed.subjects}
            assert names == self.names()

    def names(self) -> set[str]:
        """Return who is present by the rules."""
        now = self.clock.seconds()
        open = {name for name, _ in self.open}
        return open | {name for name, left in self.left.items() if now < left + LINGER - 1e-9}

    def teardown(self) -> None:
        """Stop; no timer is left."""
        self.presence.stop()
        assert self.clock.getDelayedCalls() == []


PresenceMachine.TestCase.settings = same_examples(max_examples=60)
PresencePropertyTests = PresenceMachine.TestCase
