"""Schedules on disk: the contract of all stores, kills at any time, and disks that fail."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import StateDamaged, Unavailable
from pushd.topics.broker import Draft
from pushd.topics.history import Retention
from pushd.topics.scheduled import ScheduledPublication, ScheduledPublications
from pushd.topics.state.broker import StoredBroker
from pushd.topics.state.database import FILE
from pushd.topics.state.schedules import StoredSchedules
from tests.support.folder import make_folder
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.schedule_contract import RULES, ScheduleNode
from tests.support.state_node import StateNode


class ScheduleStateNode(StateNode):
    """A node with schedules on disk."""

    scheduled: ScheduledPublications
    grace = 60.0

    def make_broker(self) -> StoredBroker:
        """Make the broker, and the schedules that it restores."""
        broker = super().make_broker()
        self.store = StoredSchedules(self.clock, broker, wall=self.wall, grace=self.grace)
        return broker

    def wall(self) -> float:
        """Return the time of day."""
        return self.day + self.clock.seconds()

    def start(self) -> None:
        """Start, restore what there is, and publish what is due."""
        super().start()
        self.schedule_node = ScheduleNode(
            self.broker, self.store, number=self._count, wall=self.wall, grace=self.grace
        )
        self.scheduled = self.schedule_node.scheduled

    def stop(self) -> None:
        """End in order."""
        self.scheduled.stop()
        super().stop()

    def rows(self, sql: str) -> list[Any]:
        """Read the database, as the next process finds it."""
        connection = sqlite3.connect(self.folder / "state" / FILE)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class StateCluster:
    """One node in all roles."""

    durable = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def start(self, grace: float = 60) -> tuple[ScheduleNode, ScheduleNode]:
        """Start the node."""
        for name in ("state", "memory"):
            (self.folder / name).mkdir()
        self.node = make_node(self.folder, grace=grace)
        return self.node.schedule_node, self.node.schedule_node

    async def outage(self, seconds: float) -> tuple[ScheduleNode, ScheduleNode]:
        """Kill the node once all is written, and start it some time later."""
        self.node.clock.advance(0.1)
        self.node.kill()
        self.node.day += seconds
        self.node.start()
        return self.node.schedule_node, self.node.schedule_node

    async def wait(self, seconds: float) -> None:
        """Let time pass in small steps."""
        self.node.clock.pump([0.05] * round(seconds * 20))

    def now(self) -> float:
        """Return the time of day."""
        return self.node.wall()


def make_node(folder: Path, sync: str = "second", grace: float = 60) -> ScheduleStateNode:
    """Make a node that keeps a long history."""
    kind = type("Node", (ScheduleStateNode,), {"grace": grace})
    node: ScheduleStateNode = kind(
        folder, folder / "memory", sync, retention=Retention(size=10_000)
    )
    return node


class ContractTests(SynchronousTestCase):
    """The contract of all stores of schedules."""

    def test_rules(self) -> None:
        """A store on disk keeps every rule, and leaves no timer."""
        for rule in RULES:
            with self.subTest(rule=rule.__name__):
                cluster = StateCluster(make_folder(self))
                kept = Deferred.fromCoroutine(rule(cluster))
                self.assertIsNone(self.successResultOf(kept))
                cluster.node.stop()
                self.assertEqual(cluster.node.clock.getDelayedCalls(), [])


class ScheduleStateTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make folders."""
        self.folder = make_folder(self)
        for name in ("state", "memory"):
            (self.folder / name).mkdir()

    def start(self, sync: str = "second") -> ScheduleStateNode:
        """Start a node."""
        self.node = make_node(self.folder, sync)
        return self.node

    def add(self, data: str | bytes = "x", **times: Any) -> ScheduledPublication:
        """Schedule a publication."""
        return self.node.scheduled.add(Draft("t", data), **times)

    def ids(self) -> list[str]:
        """Return the ids of all schedules."""
        return [one.id for one in self.successResultOf(self.node.scheduled.all())]

    def published(self) -> list[str | bytes]:
        """Return all that was published."""
        return self.successResultOf(Deferred.fromCoroutine(self.node.schedule_node.published()))


class RestartTests(ScheduleStateTestCase):
    """What a restart finds."""

    def test_restart(self) -> None:
        """All that belongs to a schedule outlives the process, and it goes on at its pace."""
        for sync in ("always", "second", "none"):
            self.setUp()
            node = self.start(sync)
            node.scheduled.add(Draft("t", '{"a":1}', None, "paid", True), every=5, count=3, delay=5)
            node.scheduled.add(Draft("t", b"\xff\x00"), delay=12)
            node.clock.pump([0.1] * 60)
            with capturedLogs() as events:
                node.restart()
            self.assertNotIn("timed_push_lost", [event.get("event") for event in events])
            self.assertEqual(len(self.published()), 1)
            node.clock.pump([0.1] * 100)
            made = self.successResultOf(Deferred.fromCoroutine(node.schedule_node.publications()))
            self.assertEqual(
                [(one.data, one.event, one.is_json) for one in made],
                [('{"a":1}', "paid", True)] * 2
                + [(b"\xff\x00", None, False)]
                + [('{"a":1}', "paid", True)],
            )
            self.assertEqual(self.ids(), [])
            node.stop()
            self.assertEqual(node.rows("SELECT * FROM schedule"), [])

    def test_order(self) -> None:
        """Schedules are listed in the order in which they were made."""
        node = self.start()
        ids = [self.add(delay=delay).id for delay in (7, 3, 9, 5)]
        self.add(delay=1)
        node.clock.pump([0.5] * 4)
        node.restart()
        self.assertEqual(self.ids(), ids)
        node.stop()

    def test_stopping(self) -> None:
        """After a stop nothing is published or accepted, and nothing is lost."""
        node = self.start()
        self.add(delay=1)
        node.scheduled.stop()
        self.failureResultOf(self.add(delay=1).kept(), Unavailable)
        node.clock.pump([1, 1])
        self.assertEqual(node.broker.published, 0)
        node.stop()
        node.start()
        node.clock.advance(0)
        self.assertEqual(self.published(), ["x"])
        node.stop()

    def test_stopped_while_publishing(self) -> None:
        """A publication that a stop refuses is made by the next start."""
        node = self.start("always")
        self.add(delay=1)
        node.clock.pump([0.5, 0.5])
        # It waits for the group that would begin now.
        node.restart()
        node.clock.pump([0, 0, 0])
        self.assertEqual(self.published(), ["x"])
        node.stop()

    def test_damaged(self) -> None:
        """If the database turns out to be damaged, all of it is set aside, and nothing is left."""
        node = self.start()
        self.add(delay=60)
        node.write()
        node.kill()
        make_broker = node.make_broker

        def make_torn_broker() -> StoredBroker:
            broker = make_broker()
            broker.parts.append(TornPart())
            return broker

        node.make_broker = make_torn_broker  # type: ignore[method-assign]  # for one start
        with capturedLogs() as events:
            node.start()
        self.assertIn("state_set_aside", [event.get("event") for event in events])
        self.assertEqual(self.ids(), [])
        self.add(delay=60)
        node.stop()
        self.assertEqual(node.rows("SELECT count(*) FROM schedule"), [(1,)])


class TornPart:
    """Something in the database that cannot be read."""

    def load(self, database: object) -> None:
        """Fail."""
        raise StateDamaged("torn")

    def forget(self) -> None:
        """Do nothing: nothing was read."""


class KillTests(ScheduleStateTestCase):
    """Kills at any time: a publication and that it is done are on the disk together, or neither."""

    @settings(NO_DEADLINE, max_examples=30)
    @given(
        st.sampled_from(["always", "second", "none"]),
        st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["kill", "power", "busy", "go"]))),
    )
    def test_any_time(self, sync: str, steps: list[tuple[int, str]]) -> None:
        """In the database there are always as many publications as are done."""
        self.setUp()
        node = self.start(sync)
        self.add("once", delay=0.7)
        self.add("often", every=0.15, count=40)
        for wait, step in steps:
            node.clock.pump([0.03] * wait)
            match step:
                case "kill":
                    node.kill()
                    self.check()
                    node.start()
                case "power":
                    node.lose_power()
                    self.check()
                    node.start()
                case "busy":
                    node.disk.busy = True
                case "go":
                    node.disk.go_on()
        node.disk.go_on()
        for _ in range(80):
            node.clock.pump([0.05] * 10)
        node.stop()
        self.check()
        if sync == "always":
            # All that was on the disk is made as often as was said; the rest had not been kept.
            for data, made in node.rows("SELECT data, count(*) FROM publication GROUP BY data"):
                self.assertEqual(made, {"once": 1, "often": 40}[data])

    def check(self) -> None:
        """Check the database against itself."""
        rows = self.node.rows("SELECT data, count(*) FROM publication GROUP BY data")
        made = dict(rows)
        for data, done in self.node.rows("SELECT data, done FROM schedule"):
            self.assertEqual(made.get(data, 0), done)

    def test_promised(self) -> None:
        """With "always", a schedule that counts as kept is there after a kill at once."""
        node = self.start("always")
        kept = self.add(delay=60).kept()
        self.assertNoResult(kept)
        node.clock.advance(0)
        self.successResultOf(kept)
        (id,) = self.ids()
        node.kill()
        node.start()
        self.assertEqual(self.ids(), [id])
        cancelled = node.scheduled.cancel(id)
        self.assertNoResult(cancelled)
        node.clock.advance(0)
        self.assertTrue(self.successResultOf(cancelled))
        self.assertFalse(self.successResultOf(node.scheduled.cancel(id)))
        node.kill()
        node.start()
        self.assertEqual(self.ids(), [])
        node.stop()

    def test_delivering(self) -> None:
        """While publications are written but not delivered, no schedule is ahead of them."""
        node = self.start("always")
        room: Deferred[None] = Deferred()
        node.broker.start(node.node.deliver, room=lambda: room)
        self.add("x" * 70_000, delay=0)
        self.add("y" * 70_000, delay=0)
        node.clock.advance(0)
        self.assertTrue(node.broker.delivering)
        kept = self.add("z", delay=0).kept()
        node.clock.pump([0.1, 0.1])
        self.assertNoResult(kept)
        room.callback(None)
        node.clock.pump([0, 0])
        self.assertFalse(node.broker.delivering)
        self.successResultOf(kept)
        node.kill()
        self.assertEqual(node.rows("SELECT count(*) FROM publication"), [(3,)])
        self.assertEqual(node.rows("SELECT * FROM schedule"), [])


class DiskTests(ScheduleStateTestCase):
    """Disks that are full."""

    def test_full(self) -> None:
        """While nothing can be written, nothing is accepted, and what is due waits."""
        for sync in ("always", "second"):
            self.setUp()
            node = self.start(sync)
            self.add(every=5, count=3)
            node.write()
            node.database.fill()
            refused = self.add(delay=1).kept()
            node.clock.pump([0.1] * 3)
            if sync == "always":
                self.failureResultOf(refused, Unavailable)
            else:
                # It was accepted before it was known that the disk is full.
                self.successResultOf(refused)
                self.node.scheduled.cancel(self.ids()[1])
            self.failureResultOf(self.add(delay=1).kept(), Unavailable)
            node.clock.pump([0.1] * 30)
            self.assertEqual(self.published(), ["x"])
            node.database.failure = None
            node.clock.pump([0.1] * 60)
            self.assertEqual(self.published(), ["x"] * 3)
            self.assertEqual((self.ids(), node.scheduled.dropped), ([], 0))
            node.stop()
            self.assertEqual(node.rows("SELECT * FROM schedule"), [])

    def test_cancelled_on_a_full_disk(self) -> None:
        """With "always", it is said that a cancelled schedule may come back; it is tried again."""
        node = self.start("always")
        self.add(delay=60)
        node.clock.advance(0)
        node.database.fill()
        (id,) = self.ids()
        cancelled = node.scheduled.cancel(id)
        node.clock.advance(0)
        self.failureResultOf(cancelled, Unavailable)
        node.database.failure = None
        node.clock.pump([0.5] * 4)
        node.kill()
        self.assertEqual(node.rows("SELECT * FROM schedule"), [])
