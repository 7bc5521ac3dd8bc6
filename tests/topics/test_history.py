"""Histories: what is kept, for how long, and what it costs."""

from __future__ import annotations

import gc
import sqlite3
import tracemalloc
from contextlib import closing
from sys import getsizeof
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import history as module
from pushd.topics.history import History, Retention, Topic
from pushd.topics.publication import Id

FAR = 1 << 30


class HistoryTestCase(SynchronousTestCase):
    """A history with a fake clock, whose epochs are e1, e2 and so on."""

    def setUp(self) -> None:
        """Keep publications for ten seconds."""
        self.clock = Clock()
        self.keep(ttl=10)

    def keep(self, **retention: Any) -> None:
        """Use a history with another retention."""
        epochs = iter(range(1, FAR))
        self.history = History(
            self.clock, Retention(**{"ttl": 10, **retention}), lambda: f"e{next(epochs)}"
        )

    def replay(self, topic: str, after: str | None, limit: int = FAR) -> list[str | bytes] | None:
        """Return the data published after an id; None if it is not recovered."""
        replay = self.history.replay(topic, None if after is None else Id.parse(after), limit)
        self.assertEqual(replay.last, self.history.describe(topic)[0])
        if not replay.recovered:
            self.assertEqual((replay.publications, replay.id), ((), replay.last))
            return None
        self.assertEqual(str(replay.id), after)
        return [publication.data for publication in replay.publications]


class IdTests(HistoryTestCase):
    """The ids of publications."""

    def test_offsets(self) -> None:
        """Offsets count 1, 2, 3… in each topic, which has an epoch of its own."""
        ids = [str(self.history.add(topic, "x").id) for topic in "aabab"]
        self.assertEqual(ids, ["e1:1", "e1:2", "e2:1", "e1:3", "e2:2"])

    def test_publication(self) -> None:
        """A publication has the topic and data that were given."""
        publication = self.history.add("a", b"x")
        self.assertEqual((publication.topic, publication.data), ("a", b"x"))

    def test_new_epoch(self) -> None:
        """A topic that has expired gets a new epoch."""
        self.history.add("a", "1")
        self.clock.advance(10)
        self.assertEqual(str(self.history.add("a", "2").id), "e2:1")

    def test_describe(self) -> None:
        """A topic's last id and length are described; that does not create the topic."""
        self.assertEqual(self.history.describe("a"), (None, 0))
        self.assertEqual(self.history.names(), [])
        self.history.add("a", "1")
        self.history.replay("b", None, FAR)
        self.assertEqual(self.history.describe("a"), (Id("e1", 1), 1))
        self.assertEqual(self.history.describe("b"), (Id("e2", 0), 0))
        self.assertEqual(self.history.names(), ["a", "b"])


class ReplayTests(HistoryTestCase):
    """Publications after an id."""

    def test_since(self) -> None:
        """All publications after the id are returned in order; none after the last id."""
        for data in "abc":
            self.history.add("t", data)
        self.assertEqual(self.replay("t", "e1:0"), ["a", "b", "c"])
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.assertEqual(self.replay("t", "e1:3"), [])

    def test_not_recovered(self) -> None:
        """Without an id, or with an unknown epoch or offset, nothing is recovered."""
        self.keep(size=2)
        for data in "abc":
            self.history.add("t", data)
        for after in (None, "e9:2", "e1:0", "e1:4"):
            self.assertIsNone(self.replay("t", after), after)

    def test_limit(self) -> None:
        """At least one publication is returned; ``last`` shows whether there are more."""
        for data in "abc":
            self.history.add("t", data)
        self.assertEqual(self.replay("t", "e1:0", 0), ["a"])
        self.assertEqual(self.replay("t", "e1:1", 1), ["b"])
        self.assertEqual(self.replay("t", "e1:0", 2000), ["a", "b"])

    def test_cost(self) -> None:
        """A replay looks at the publications that it returns, and at no others."""
        self.keep(size=FAR, bytes=FAR)
        for number in range(3000):
            self.history.add("t", str(number))
        kept = self.history._topics["t"].kept = _Counting(self.history._topics["t"].kept)
        for after in (0, 1500, 2998):
            kept.asked = 0
            self.assertEqual(self.replay("t", f"e1:{after}", 1), [str(after)])
            self.assertEqual(kept.asked, 1)


class _Counting(dict[int, Any]):
    """A dict that counts lookups, and cannot be iterated over."""

    asked = 0

    def __getitem__(self, key: int) -> Any:
        self.asked += 1
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        raise AssertionError("must not be iterated over")

    keys = values = items = __iter__


class LimitTests(HistoryTestCase):
    """Limits on what is kept."""

    def test_size(self) -> None:
        """The number of publications is limited per topic."""
        self.keep(size=2)
        for data in "abc":
            self.history.add("t", data)
            self.history.add("u", data)
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.assertEqual(self.replay("u", "e2:1"), ["b", "c"])

    def test_no_size(self) -> None:
        """With a size of 0 nothing is kept, but ids are given all the same."""
        self.keep(size=0)
        self.history.add("t", "a")
        self.assertEqual(self.replay("t", "e1:1"), [])
        self.assertEqual(str(self.history.add("t", "b").id), "e1:2")
        self.assertIsNone(self.replay("t", "e1:1"))
        self.assertEqual(self.history.bytes, 0)

    def test_ttl(self) -> None:
        """Publications expire exactly after the TTL."""
        self.history.add("t", "a")
        self.clock.advance(4)
        self.history.add("t", "b")
        self.clock.advance(5.9)
        self.assertEqual(self.replay("t", "e1:0"), ["a", "b"])
        self.clock.advance(0.1)
        self.assertIsNone(self.replay("t", "e1:0"))
        self.assertEqual(self.replay("t", "e1:1"), ["b"])
        self.clock.advance(4)
        self.assertEqual(self.replay("t", "e1:2"), [])

    def test_bytes(self) -> None:
        """The bytes of all topics are limited; the oldest publications of any topic go first."""
        self.keep(bytes=15_000)
        for topic in "abcab":
            self.history.add(topic, b"x" * 3000)
            self.assertLessEqual(self.history.bytes, 15_000)
        self.assertEqual(self.replay("a", "e1:1"), [b"x" * 3000])
        self.assertIsNone(self.replay("a", "e1:0"))
        self.assertIsNone(self.replay("b", "e2:0"))
        self.assertEqual(self.replay("c", "e3:0"), [b"x" * 3000])

    def test_bytes_of_text(self) -> None:
        """Text counts by the memory it takes, not by its characters."""
        self.history.add("t", "😀" * 1000)
        self.assertGreater(self.history.bytes, 4000)

    def test_bytes_of_text_that_grows(self) -> None:
        """Text that grows while it is kept leaves nothing in the count when it expires."""
        text = "é€" * 1000
        self.history.add("t", text)
        before, counted = getsizeof(text), self.history.bytes
        # Python keeps the UTF-8 form once a library has asked for it.
        with closing(sqlite3.connect(":memory:")) as database:
            database.execute("select ?", (text,))
        self.assertGreater(getsizeof(text), before)
        self.assertEqual(self.history.bytes, counted)
        self.clock.advance(11)
        self.assertEqual(self.history.bytes, 0)

    def test_too_big_to_keep(self) -> None:
        """A publication larger than the limit is not kept, but its id counts."""
        self.keep(bytes=2000)
        self.history.add("t", "small")
        self.history.add("t", b"x" * 3000)
        self.assertEqual(self.history.bytes, 0)
        self.assertEqual(self.replay("t", "e1:2"), [])
        self.assertIsNone(self.replay("t", "e1:1"))
        self.assertEqual(str(self.history.add("t", "c").id), "e1:3")


class ExpiryTests(HistoryTestCase):
    """A topic that is not used takes no memory and no timer."""

    def test_used_once(self) -> None:
        """A topic is forgotten with its last publication."""
        self.history.add("t", "a")
        self.clock.advance(9.9)
        self.assertEqual(len(self.history), 1)
        self.clock.advance(0.1)
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_id_given_out(self) -> None:
        """A topic whose last id was given out keeps its epoch for the TTL."""
        self.history.replay("t", None, FAR)
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), [])
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), [])
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)

    def test_id_given_out_late(self) -> None:
        """The TTL counts from the last time that the id was given out."""
        self.history.add("t", "a")
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), ["a"])
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:1"), [])

    def test_held(self) -> None:
        """A topic with subscribers is not forgotten, and costs no timer."""
        self.history.hold("t")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.replay("t", None, FAR)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.add("t", "a")
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(str(self.history.add("t", "b").id), "e1:2")
        self.history.release("t")
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:1"), ["b"])
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)

    def test_held_again(self) -> None:
        """A topic that has subscribers again does not expire."""
        self.history.hold("t")
        self.history.release("t")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.history.hold("t")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.add("u", "a")
        self.history.hold("t")
        self.clock.advance(10)
        self.assertEqual(self.history.names(), ["t"])

    def test_one_timer(self) -> None:
        """All topics and publications share one delayed call."""
        for number in range(100):
            self.history.add(f"t{number}", "a")
            self.history.replay(f"u{number}", None, FAR)
            self.clock.advance(0.01)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_many_idle_topics(self) -> None:
        """Requests for unknown topics cannot fill the memory: the oldest are dropped."""
        self.patch(module, "_MAX_IDLE", 3)
        self.history.add("kept", "a")
        self.history.hold("held")
        for number in range(10):
            self.history.replay(f"t{number}", None, FAR)
        self.assertEqual(self.history.names(), ["kept", "held", "t7", "t8", "t9"])

    def test_stop(self) -> None:
        """``stop`` forgets everything, and leaves no timer."""
        self.history.add("t", "a")
        self.history.hold("u")
        self.history.stop()
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.stop()

    def test_memory(self) -> None:
        """An expired topic leaves no memory; before, it takes no more than is counted."""
        self.keep(bytes=FAR)
        self.history.add("warm", "up")
        self.clock.advance(10)
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(5000):
            self.history.add(f"topic/{number}", "x")
        used, _ = tracemalloc.get_traced_memory()
        self.assertLess(used, self.history.bytes)
        self.clock.advance(10)
        gc.collect()
        left, _ = tracemalloc.get_traced_memory()
        self.assertLess(left, 20_000)

    def test_expiry_is_linear(self) -> None:
        """When many publications expire at once, each is looked at once."""
        self.keep(bytes=FAR)
        for number in range(1000):
            self.history.add(f"t{number}", "x")
        seen = []
        forget = self.history._forget

        def record(topic: Topic) -> None:
            seen.append(topic)
            forget(topic)

        self.patch(self.history, "_forget", record)
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)
        self.assertEqual(len(seen), 2000)
