"""The broker of ``--state``: what a restart keeps, what a crash loses, and who is told."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import StateUnusable, Unavailable
from pushd.topics import broker as memory_broker
from pushd.topics.broker import KEY_TTL, Draft
from pushd.topics.cursor import Cursor
from pushd.topics.history import Retention
from pushd.topics.publication import Id
from pushd.topics.rules import Rule, Rules
from pushd.topics.state import broker as module
from pushd.topics.state.database import FILE, SYNCS
from tests.support.broker_contract import RULES, Node
from tests.support.folder import make_folder
from tests.support.state_node import StateNode


class StateTestCase(SynchronousTestCase):
    def make(self, sync: str = "second", **options: Any) -> StateNode:
        """Start a node with an empty folder."""
        folder = make_folder(self)
        memory = folder / "memory"
        memory.mkdir()
        node = StateNode(folder, memory, sync, **options)
        self.addCleanup(lambda: node.database.close())
        return node

    def locate(self, node: StateNode, topic: str, cursor: str) -> str | None:
        """Return from where a subscriber with a cursor continues."""
        [id] = self.successResultOf(node.broker.locate([topic], Cursor.parse(cursor)))
        return None if id is None else str(id)

    def rows(self, node: StateNode, table: str) -> list[Any]:
        """Return the rows of a table, once the node has ended."""
        connection = sqlite3.connect(node.folder / "state" / FILE)
        try:
            return connection.execute(f"SELECT * FROM {table}").fetchall()
        finally:
            connection.close()


class RestartTests(StateTestCase):
    def test_stop(self) -> None:
        """After a stop in order, subscribers resume as if nothing had been, with each --state-sync.

        So do cursors, and the topics have their epochs, offsets and data of every kind.
        """
        for sync in SYNCS:
            node = self.make(sync)
            ids = [node.publish("t", data) for data in ("a", b"\xff\x00", "ä\x00", "")]
            other = node.publish("u", "x")
            cursor = f"{node.broker.generation}.2"
            node.restart()
            self.assertEqual(node.read("t", ids[0]), (True, [b"\xff\x00", "ä\x00", ""]))
            self.assertEqual(node.read("t", ids[3]), (True, []))
            self.assertEqual(node.read("t", "other:1"), (False, []))
            self.assertEqual(self.locate(node, "t", cursor), ids[1])
            self.assertEqual(node.publish("t", "b"), ids[0].replace(":1", ":5"))
            self.assertEqual(node.publish("u", "y"), other.replace(":1", ":2"))
            self.assertEqual(node.broker.fault(), None)

    def test_silent_topics(self) -> None:
        """Topics that have no publications keep their epochs, as their ids were given out."""
        node = self.make()
        last = node.publish("t", "a")
        node.clock.advance(200)
        node.read("t")
        node.clock.advance(101)
        subscriber = node.node.listen("new")
        self.assertEqual(node.broker.history_bytes, 0)
        node.restart()
        self.assertEqual(node.read("t", last), (True, []))
        self.assertEqual(node.read("new", subscriber.events[0][0]), (True, []))
        self.assertEqual(node.publish("t", "b"), last.replace(":1", ":2"))
        node.clock.advance(301)
        node.write()
        node.stop()
        self.assertEqual(self.rows(node, "publication"), [])

    def test_event_and_json(self) -> None:
        """The name of an event, and that the data is JSON, are kept."""
        node = self.make()
        self.successResultOf(node.broker.publish("t", "{}", None, "e", True))
        id = str(self.successResultOf(node.broker.replay("t", None, 0)).last)
        node.restart()
        before = Id.parse(id.replace(":1", ":0"))
        [publication] = self.successResultOf(node.broker.replay("t", before, 1)).publications
        self.assertEqual((publication.event, publication.is_json), ("e", True))

    def test_metadata(self) -> None:
        """Metadata are kept as long as their publications, and no others get them."""
        for sync in SYNCS:
            node = self.make(sync, retention=Retention(size=2))
            begun = self.successResultOf(node.broker.replay("t", None, 0)).last
            for metadata in ('{"tags":{"n":"1"}}', None, '{"tags":{"n":"2"}}'):
                self.publish(node, Draft("t", "x", metadata=metadata))
            node.restart()
            after = Id(begun.epoch, 1)
            found = self.successResultOf(node.broker.replay("t", after, 1 << 20)).publications
            self.assertEqual([one.metadata for one in found], [None, '{"tags":{"n":"2"}}'])
            node.write()
            node.stop()
            self.assertEqual(self.rows(node, "metadata"), [(3, '{"tags":{"n":"2"}}')])

    def publish(self, node: StateNode, draft: Draft) -> None:
        """Publish a draft."""
        publishing = node.broker.publish_all((draft,))
        node.write()
        self.successResultOf(publishing)

    def test_age(self) -> None:
        """Publications are as old after a restart as they are by the time of day."""
        node = self.make()
        ids = [node.publish("t", "a")]
        node.clock.advance(100)
        ids.append(node.publish("t", "b"))
        node.stop()
        node.day += 150
        node.start()
        self.assertEqual(node.read("t", ids[0].replace(":1", ":0")), (True, ["a", "b"]))
        node.clock.advance(51)
        self.assertEqual(node.read("t", ids[0].replace(":1", ":0")), (False, []))
        self.assertEqual(node.read("t", ids[0]), (True, ["b"]))
        node.stop()
        node.day += 10_000
        node.start()
        self.assertEqual(node.read("t", ids[0]), (False, []))
        self.assertEqual(node.read("t", ids[1]), (True, []))

    def test_clock_set_back(self) -> None:
        """If the time of day is set back, publications are kept as long as new ones."""
        node = self.make()
        node.publish("t", "a")
        node.stop()
        node.day -= 100_000
        node.start()
        node.clock.advance(299)
        self.assertEqual(self.successResultOf(node.broker.describe("t"))[1], 1)
        node.clock.advance(2)
        self.assertEqual(self.successResultOf(node.broker.describe("t"))[1], 0)

    def test_limits(self) -> None:
        """The limits of the history hold on disk as well, and those that were lowered at once."""
        node = self.make(retention=Retention(size=3))
        ids = [node.publish(topic, f"{number}") for number in range(5) for topic in "tu"]
        node.write()
        node.stop()
        self.assertEqual([row[4] for row in self.rows(node, "publication")], list("223344"))
        node.retention = Retention(size=2, bytes=3000)
        node.start()
        self.assertEqual(self.successResultOf(node.broker.describe("u")), (Id.parse(ids[-1]), 1))
        self.assertEqual(self.successResultOf(node.broker.describe("t"))[1], 1)
        node.stop()
        self.assertEqual([row[4] for row in self.rows(node, "publication")], list("44"))

    def test_rules(self) -> None:
        """Rules decide what is kept, also after a restart; a retained publication stays."""
        rules = Rules([Rule(match="r", retain=True), Rule(match="n", history_size=0)])
        node = self.make(rules=rules)
        ids = [node.publish(topic, topic) for topic in "rn"]
        node.stop()
        self.assertEqual([row[1] for row in self.rows(node, "publication")], ["r"])
        node.day += 10_000
        node.start()
        self.assertEqual(node.read("r"), (False, ["r"]))
        self.assertEqual(node.read("n", ids[1]), (True, []))
        self.assertEqual(node.publish("n", "x"), ids[1].replace(":1", ":2"))
        node.rules = Rules([Rule(match="r", history_size=0)])
        node.restart()
        self.assertEqual(node.read("r"), (False, []))
        self.assertEqual(node.read("r", ids[0]), (True, []))

    def test_forgotten_topics(self) -> None:
        """A topic that is forgotten leaves the database, and its cursors are not recovered."""
        node = self.make(retention=Retention(ttl=1))
        node.publish("t", "a")
        node.write()
        node.clock.advance(5)
        node.publish("u", "b")
        cursor = f"{node.broker.generation}.0"
        node.restart()
        self.assertIsNone(self.locate(node, "t", cursor))
        node.stop()
        self.assertEqual([row[0] for row in self.rows(node, "topic")], ["u"])

    def test_keys(self) -> None:
        """Idempotency keys are known after a restart, and forgotten after five minutes in all."""
        for sync in SYNCS:
            node = self.make(sync)
            first = node.publish("t", "a", "k")
            node.clock.advance(200)
            second = node.publish("t", "b", "l")
            node.restart()
            self.assertEqual(node.publish("t", "again", "k"), first)
            node.clock.advance(KEY_TTL - 200)
            self.assertEqual(node.publish("t", "c", "k"), first.replace(":1", ":3"))
            self.assertEqual(node.publish("t", "again", "l"), second)
            node.stop()
            self.assertEqual([row[2] for row in self.rows(node, "idempotency")], ["l", "k"])
            node.day += KEY_TTL
            node.start()
            node.stop()
            self.assertEqual(self.rows(node, "idempotency"), [])

    def test_many_keys(self) -> None:
        """A key that is forgotten at the limit is forgotten on disk."""
        self.patch(memory_broker, "_MAX_KEYS", 2)
        node = self.make()
        ids = [node.publish("t", key, key) for key in "abc"]
        node.restart()
        self.assertEqual(node.publish("t", "again", "c"), ids[2])
        self.assertEqual(node.publish("t", "new", "a"), ids[0].replace(":1", ":4"))
        node.stop()
        self.assertEqual([row[2] for row in self.rows(node, "idempotency")], ["c", "a"])

    def test_many_topics(self) -> None:
        """Of very many topics without publications, those that were used last are known."""
        self.patch(memory_broker, "_MAX_KEYS", 2)
        node = self.make()
        ids = [node.publish(f"t{number}", "a") for number in range(300)]
        node.restart()
        self.assertEqual(
            [node.read(f"t{number}", id) for number, id in enumerate(ids)], [(True, [])] * 300
        )

    def test_empty(self) -> None:
        """A node that has seen no topic can be restarted, and leaves no timer."""
        node = self.make()
        node.restart()
        self.assertEqual(self.successResultOf(node.broker.names()), [])
        node.stop()
        self.assertEqual(node.clock.getDelayedCalls(), [])

    def test_fast_path(self) -> None:
        """What is published without a Deferred is kept like everything else."""
        node = self.make()
        id = node.publish_at_once("t", "a")
        assert id is not None
        node.restart()
        self.assertEqual(node.read("t", id.replace(":1", ":0")), (True, ["a"]))

    def test_log(self) -> None:
        """The start says in one line what was restored."""
        node = self.make()
        node.publish("t", "a")
        node.stop()
        with capturedLogs() as events:
            node.start()
        [event] = events
        self.assertEqual(event["event"], "state_restored")
        self.assertEqual((event["publications"], event["topics"]), (1, 1))


class CrashTests(StateTestCase):
    def test_written(self) -> None:
        """If all was written when the process was killed, nothing is lost or renewed."""
        for sync in SYNCS:
            node = self.make(sync)
            id = node.publish("t", "a")
            node.write()
            generation = node.broker.generation
            node.kill()
            with capturedLogs() as events:
                node.start()
            self.assertEqual([event["event"] for event in events], ["state_restored"])
            self.assertEqual(node.read("t", id.replace(":1", ":0")), (True, ["a"]))
            self.assertEqual(self.locate(node, "t", f"{generation}.0"), id.replace(":1", ":0"))

    def test_unwritten(self) -> None:
        """A topic that lost a publication has a new epoch and what is left; others go on."""
        node = self.make()
        ids = [node.publish(topic, topic) for topic in "tuv"]
        node.write()
        generation = node.broker.generation
        node.disk.busy = True
        lost = [node.publish("t", "lost"), node.publish("new", "lost")]
        cursors = [f"{generation}.{number}" for number in (2, 3, 4, 5)]
        node.kill()
        with capturedLogs() as events:
            node.start()
        self.assertEqual([event["event"] for event in events][-1], "state_renewed")
        self.assertEqual(events[-1]["topics"], 1)
        for id in (ids[0], lost[0]):
            self.assertEqual(node.read("t", id), (False, []))
        self.assertEqual(node.read("new", lost[1]), (False, []))
        self.assertEqual(node.read("u", ids[1]), (True, []))
        # Whoever has seen everything lacks nothing; all others may.
        last = self.successResultOf(node.broker.describe("t"))[0]
        self.assertEqual(
            [self.locate(node, "t", one) for one in cursors], [None, None, None, str(last)]
        )
        self.assertEqual([self.locate(node, "new", one) for one in cursors[:3]], [None] * 3)
        self.assertEqual(self.locate(node, "u", cursors[0]), ids[1])
        # No number is given out twice.
        self.assertEqual(node.publish("u", "next"), ids[1].replace(":1", ":2"))
        self.assertEqual(self.locate(node, "u", cursors[3]), ids[1])
        before = f"{last}".replace(":1", ":0")
        self.assertEqual(node.read("t", before), (True, ["t"]))

    def test_renewed_topic_drops(self) -> None:
        """What a topic with a new epoch drops later makes no older cursor valid."""
        node = self.make(retention=Retention(size=2))
        for data in "ab":
            node.publish("t", data)
        node.write()
        cursor = f"{node.broker.generation}.2"
        node.disk.busy = True
        node.publish("t", "lost")
        node.kill()
        node.start()
        node.publish("t", "c")
        self.assertIsNone(self.locate(node, "t", cursor))
        node.clock.advance(301)
        self.assertIsNone(self.locate(node, "t", cursor))

    def test_power(self) -> None:
        """After a loss of power each topic has a new epoch, unless all is always on the disk."""
        for sync in SYNCS:
            node = self.make(sync)
            id = node.publish("t", "a")
            node.write()
            cursor = f"{node.broker.generation}.0"
            node.lose_power()
            node.start()
            kept = sync == "always"
            self.assertEqual(node.read("t", id), (kept, []))
            self.assertEqual(self.locate(node, "t", cursor) is not None, kept)
            last = self.successResultOf(node.broker.describe("t"))[0]
            self.assertEqual(node.read("t", f"{last}".replace(":1", ":0")), (True, ["a"]))

    def test_crash_after_crash(self) -> None:
        """A new epoch outlives a crash before anything was published."""
        node = self.make()
        node.publish("t", "a")
        node.write()
        node.disk.busy = True
        node.publish("t", "lost")
        node.kill()
        node.start()
        first = self.successResultOf(node.broker.describe("t"))[0]
        node.kill()
        node.start()
        self.assertEqual(self.successResultOf(node.broker.describe("t"))[0], first)
        self.assertEqual(len(list(node.memory.iterdir())), 1)
        node.stop()
        self.assertEqual(list(node.memory.iterdir()), [])

    def test_lost_key(self) -> None:
        """The key of a publication that is lost is lost, so that it can be published again."""
        node = self.make()
        node.publish("t", "a")
        node.write()
        node.disk.busy = True
        lost = node.publish("t", "b", "k")
        node.kill()
        node.start()
        self.assertNotEqual(node.publish("t", "b", "k"), lost)

    def test_no_memory(self) -> None:
        """Without an activity log, a crash is like a loss of power; a warning says it."""
        for sync, expected in (("second", ["state_no_log"]), ("always", [])):
            folder = make_folder(self)
            with capturedLogs() as events:
                node = StateNode(folder, folder / "missing", sync)
            self.assertEqual([event["event"] for event in events], expected)
            id = node.publish("t", "a")
            node.write()
            node.kill()
            node.start()
            self.assertEqual(node.read("t", id), (sync == "always", []))
            node.kill()


class FullDiskTests(StateTestCase):
    def test_full(self) -> None:
        """A full disk refuses publishers, says why, loses nothing, and is used again by itself."""
        for sync in SYNCS:
            node = self.make(sync)
            ids = [node.publish("t", "a")]
            node.write()
            node.database.fill()
            with capturedLogs() as events:
                published = node.broker.publish("t", "b")
                node.write()
                if sync == "always":
                    self.failureResultOf(published, Unavailable)
                else:
                    self.successResultOf(published)
                fault = node.broker.fault()
                assert fault is not None
                self.assertIn("cannot be written: database or disk is full", fault)
                self.failureResultOf(node.broker.publish("t", "c"), Unavailable)
                self.failureResultOf(node.broker.publish_all([Draft("t", "c")]), Unavailable)
                self.assertIsNone(node.publish_at_once("t", "c"))
                node.database.failure = None
                node.write()
            self.assertEqual(
                [event["event"] for event in events], ["state_failed", "state_recovered"]
            )
            self.assertIsNone(node.broker.fault())
            ids.append(node.publish("t", "d"))
            node.write()
            node.kill()
            node.start()
            self.assertEqual(node.read("t", ids[0].replace(":1", ":0"))[0], True)
            self.assertEqual(
                node.read("t", ids[0]), (True, ["d"] if sync == "always" else ["b", "d"])
            )

    def test_false_failure(self) -> None:
        """What was written although the disk said that it was not does no harm."""
        node = self.make("always")
        ids = [node.publish("t", "a")]
        node.database.lies = True
        node.database.fill()
        done = [node.broker.publish("t", data, data) for data in "bcd"]
        node.clock.advance(0)
        for one in done:
            self.failureResultOf(one, Unavailable)
        node.database.failure = None
        node.write()
        ids.append(node.publish("t", "e"))
        node.kill()
        node.start()
        self.assertEqual(node.read("t", ids[0]), (True, ["e"]))
        self.assertEqual(node.publish("t", "b", "b"), ids[0].replace(":1", ":3"))

    def test_full_at_start(self) -> None:
        """With a full disk the daemon starts, serves what there is, and refuses publishers."""
        node = self.make()
        id = node.publish("t", "a")
        node.stop()
        node.clock, day = Clock(), node.day
        node.database = type(node.database)(node.folder / "state", "second")
        node.database.fill()
        node.broker = node.make_broker()
        with capturedLogs():
            node.broker.open()
        node.node = Node(node.broker, node.clock)
        self.assertIn("full", str(node.broker.fault()))
        self.assertEqual(node.read("t", id.replace(":1", ":0")), (True, ["a"]))
        node.database.failure = None
        node.write()
        self.assertEqual(node.publish("t", "b"), id.replace(":1", ":2"))
        self.assertEqual(node.day, day)

    def test_full_at_stop(self) -> None:
        """If the disk is full at the stop, that is logged, and the next start knows the losses."""
        node = self.make()
        id = node.publish("t", "a")
        node.write()
        node.database.fill()
        with capturedLogs() as events:
            lost = node.publish("t", "b")
            node.stop()
        self.assertEqual([event["event"] for event in events], ["state_failed", "state_lost"])
        node.start()
        for one in (id, lost):
            self.assertEqual(node.read("t", one), (False, []))

    def test_slow(self) -> None:
        """A disk that does not keep up refuses publishers, until it has caught up."""
        self.patch(module, "_MAX_UNWRITTEN", 2)
        node = self.make()
        node.write()
        node.disk.busy = True
        for _ in range(3):
            node.publish("t", "x")
        node.clock.advance(1)
        self.assertIn("3 publications wait to be written", str(node.broker.fault()))
        self.assertEqual(node.broker.unwritten, 3)
        self.failureResultOf(node.broker.publish("t", "x"), Unavailable)
        node.disk.go_on()
        self.assertIsNone(node.broker.fault())
        node.clock.advance(0.1)
        self.assertEqual(node.broker.unwritten, 0)


class AlwaysTests(StateTestCase):
    def setUp(self) -> None:
        """Start a node on which a publication waits for the disk."""
        self.node = self.make("always")

    def test_waits(self) -> None:
        """A publication is delivered and answered once it is on the disk, and not before."""
        node = self.node
        subscriber = node.node.listen("t")
        node.write()
        node.disk.busy = True
        done = node.broker.publish("t", "a")
        node.clock.advance(1)
        self.assertNoResult(done)
        self.assertEqual(len(subscriber.events), 1)
        self.assertEqual(self.successResultOf(node.broker.describe("t"))[1], 0)
        self.assertEqual(node.broker.published, 0)
        node.disk.go_on()
        id = self.successResultOf(done)
        node.clock.advance(0)
        self.assertEqual(subscriber.events[1:], [(str(id), "a")])
        self.assertIsNone(node.publish_at_once("t", "b"))

    def test_group(self) -> None:
        """What comes while a group is written is in the next one, in its order, with its keys."""
        node = self.node
        node.disk.busy = True
        first = node.broker.publish("t", "a", "k")
        node.clock.advance(0)
        done = [node.broker.publish("t", "again", "k"), node.broker.publish("u", "b", "l")]
        batch = node.broker.publish_all([Draft("t", "c"), Draft("u", "again", "l")])
        self.assertEqual(node.broker.unwritten, 2)
        node.disk.go_on()
        node.clock.advance(0)
        ids = [self.successResultOf(one) for one in (first, *done)]
        self.assertEqual(ids[0], ids[1])
        last = Id(ids[0].epoch, 2)
        self.assertEqual(self.successResultOf(batch), [last, ids[2]])
        self.assertEqual(node.publish("t", "again", "k"), str(ids[0]))

    def test_batch_fails(self) -> None:
        """All publications of a batch are refused if they cannot be written."""
        node = self.node
        node.database.fill()
        batch = node.broker.publish_all([Draft("t", "a", "k"), Draft("u", "b")])
        with capturedLogs():
            node.clock.advance(0)
        self.failureResultOf(batch, Unavailable)
        node.database.failure = None
        node.write()
        self.assertTrue(node.publish("t", "a", "k").endswith(":1"))

    def test_slices(self) -> None:
        """Many bytes are delivered in more than one iteration, and wait for room."""
        node = self.node
        room: Deferred[None] = Deferred()
        delivered: list[Any] = []
        node.broker.start(delivered.append, room=lambda: room)
        drafts = [Draft("t", "x" * (memory_broker.SLICE + 1)) for _ in range(3)]
        done = node.broker.publish_all(drafts)
        node.clock.advance(0)
        self.assertEqual(len(delivered), 1)
        later = node.broker.publish("t", "y")
        node.clock.advance(0)
        self.assertEqual(len(delivered), 1)
        room.callback(None)
        node.write()
        self.assertEqual([one.id.offset for one in delivered], [1, 2, 3, 4])
        self.assertEqual(len(self.successResultOf(done)), 3)
        self.assertEqual(self.successResultOf(later).offset, 4)

    def test_stop_amid_delivery(self) -> None:
        """What was written when the daemon stops is answered, and consistent after the start."""
        node = self.node
        before = node.publish("t", "a")
        node.broker.start(lambda publication: None, room=Deferred)
        drafts = [Draft("t", "x" * (memory_broker.SLICE + 1)) for _ in range(2)]
        done = node.broker.publish_all(drafts)
        node.clock.advance(0)
        node.clock.advance(0)
        self.assertNoResult(done)
        node.restart()
        self.assertEqual(len(self.successResultOf(done)), 2)
        self.assertEqual(len(node.read("t", before)[1]), 2)

    def test_stop_amid_write(self) -> None:
        """What waits when the daemon stops is still written, and answered; nothing is accepted."""
        node = self.node
        before = node.publish("t", "a")
        node.write()
        node.disk.busy = True
        drafts = [Draft("t", "x" * (memory_broker.SLICE + 1), "k") for _ in range(2)]
        done = node.broker.publish_all([*drafts, Draft("t", "y")])
        node.clock.advance(0)
        waiting = node.broker.publish("t", "late")
        node.broker.stop()
        self.failureResultOf(node.broker.publish("t", "too late"), Unavailable)
        closed = node.broker.close()
        self.assertNoResult(closed)
        node.disk.go_on()
        self.successResultOf(closed)
        self.assertEqual(len(self.successResultOf(done)), 3)
        self.assertEqual(self.successResultOf(waiting).offset, 4)
        self.assertEqual(node.clock.getDelayedCalls(), [])
        node.start()
        self.assertEqual(len(node.read("t", before)[1]), 3)

    def test_stop_on_full_disk(self) -> None:
        """What waits when the daemon stops is refused if the disk is full."""
        node = self.node
        node.write()
        node.disk.busy = True
        node.clock.advance(0)
        node.broker.follow("t")
        node.clock.advance(0)
        done = node.broker.publish("t", "a")
        node.broker.stop()
        closed = node.broker.close()
        node.database.fill()
        with capturedLogs():
            node.disk.go_on()
        self.successResultOf(closed)
        self.assertIn("disk is full", self.failureResultOf(done, Unavailable).getErrorMessage())

    def test_short_history(self) -> None:
        """A topic is not forgotten while its publication is written, however short its history."""
        node = self.make("always", retention=Retention(ttl=1))
        node.disk.busy = True
        done = node.broker.publish("t", "a")
        node.clock.advance(0)
        node.clock.advance(10)
        node.disk.go_on()
        id = str(self.successResultOf(done))
        node.kill()
        node.start()
        self.assertEqual(node.read("t", id), (True, []))

    def test_rule_changes_amid_write(self) -> None:
        """If a topic keeps nothing any more once it is written, nothing is kept."""
        node = self.node
        node.disk.busy = True
        done = node.broker.publish("t", "a")
        node.clock.advance(0)
        node.rules.replace(Rules([Rule(match="t", history_size=0)]))
        node.disk.go_on()
        self.successResultOf(done)
        node.stop()
        self.assertEqual(self.rows(node, "publication"), [])

    def test_nothing_kept(self) -> None:
        """A topic that keeps nothing has its last id on the disk."""
        node = self.make("always", retention=Retention(size=0))
        ids = [node.publish("t", data) for data in "ab"]
        node.kill()
        self.assertEqual(self.rows(node, "publication"), [])
        node.start()
        self.assertEqual(node.read("t", ids[1]), (True, []))
        self.assertEqual(node.read("t", ids[0]), (False, []))

    def test_failure_to_deliver(self) -> None:
        """An exception of a delivery reaches its publisher, and no other."""

        def deliver(publication: Any) -> None:
            if publication.data == "a":
                raise ZeroDivisionError

        self.node.broker.start(deliver)
        done = [self.node.broker.publish("t", data) for data in "ab"]
        self.node.clock.advance(0)
        self.failureResultOf(done[0], ZeroDivisionError)
        self.assertEqual(self.successResultOf(done[1]).offset, 2)

    def test_failure_of_room(self) -> None:
        """An exception in the wait for room is logged."""
        self.node.broker.start(lambda publication: None, room=lambda: 1 / 0)  # type: ignore[arg-type, return-value]  # it raises
        self.node.broker.publish_all([Draft("t", "x" * (memory_broker.SLICE + 1))] * 2)
        with capturedLogs() as events:
            self.node.clock.advance(0)
            self.node.clock.advance(0)
        self.assertEqual([event["event"] for event in events], ["state_broken"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class StopTests(StateTestCase):
    def test_refuses(self) -> None:
        """Once it is stopped, nothing is published that would not be kept."""
        for sync in SYNCS:
            node = self.make(sync)
            before = node.publish("t", "a")
            batch = node.broker.publish_all([Draft("t", "x" * (memory_broker.SLICE + 1))] * 2)
            node.broker.stop()
            node.broker.stop()
            self.failureResultOf(node.broker.publish("t", "b"), Unavailable)
            self.assertEqual(node.broker.fault(), "the daemon is shutting down")
            node.clock.advance(0)
            self.successResultOf(node.broker.close())
            if sync == "always":
                # It was accepted before.
                self.assertEqual(len(self.successResultOf(batch)), 2)
            else:
                self.failureResultOf(batch, Unavailable)
            self.assertTrue(node.disk.stopped)
            self.assertEqual(node.clock.getDelayedCalls(), [])
            node.start()
            self.assertTrue(node.read("t", before)[0])

    def test_never_opened(self) -> None:
        """A broker that was not opened can be closed."""
        node = self.make()
        node.stop()
        broker = node.make_broker()
        broker.stop()
        self.successResultOf(broker.close())


class DamageTests(StateTestCase):
    def spoil(self, node: StateNode, *statements: str) -> None:
        """Execute statements on the file of a node that has ended."""
        connection = sqlite3.connect(node.folder / "state" / FILE)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    def test_inconsistent(self) -> None:
        """A database whose rows do not fit together is set aside, with a line."""
        for statement in (
            "DELETE FROM publication WHERE offset = 2",
            "DELETE FROM publication WHERE offset = 3",
            "DELETE FROM topic",
            "DROP TABLE daemon",
            "ALTER TABLE publication RENAME COLUMN data TO other",
        ):
            node = self.make()
            ids = [node.publish("t", data, data) for data in "abc"]
            node.stop()
            self.spoil(node, statement)
            with capturedLogs() as events:
                node.start()
            self.assertEqual([event["event"] for event in events], ["state_set_aside"])
            self.assertEqual(node.read("t", ids[0]), (False, []))
            self.assertTrue(node.publish("t", "a", "a").endswith(":1"))
            node.restart()

    def test_unusable(self) -> None:
        """A directory that cannot be used is an error of the start."""
        node = self.make()
        broker = node.make_broker()
        node.database.directory.rename(node.folder / "other")
        (node.folder / "state").touch()
        node.database.close()
        with self.assertRaises(StateUnusable):
            broker.open()


class NodeCluster:
    """A cluster of one node, with a fake clock."""

    def __init__(self, case: StateTestCase, sync: str) -> None:
        self._case = case
        self._sync: str = sync

    async def start(self, retention: Retention, rules: Rules | None = None) -> tuple[Node, Node]:
        """Start the node, and return it twice."""
        self._node = self._case.make(self._sync, retention=retention, rules=rules)
        self._clock = self._node.clock
        return self._node.node, self._node.node

    async def until(self, condition: Any) -> None:
        """Check the condition, after some iterations."""
        self._clock.pump([0] * 5)
        assert condition()

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._clock.advance(seconds)


class ContractTests(StateTestCase):
    def test_at_once(self) -> None:
        """The broker keeps every rule of the contract if publications are delivered at once."""
        for rule in RULES:
            running: Deferred[Any] = Deferred.fromCoroutine(rule(NodeCluster(self, "second")))  # type: ignore[arg-type]
            self.assertIsNone(self.successResultOf(running), rule.__name__)

    def test_always(self) -> None:
        """The broker keeps every rule of the contract if publications wait for the disk."""
        for rule in RULES:
            cluster = NodeCluster(self, "always")
            running: Deferred[Any] = Deferred.fromCoroutine(rule(cluster))  # type: ignore[arg-type]
            for _ in range(10_000):
                if running.called:
                    break
                cluster._clock.advance(0)
            self.assertIsNone(self.successResultOf(running), rule.__name__)
