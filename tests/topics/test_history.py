"""Histories: what is kept, for how long, and what it costs."""

from __future__ import annotations

import gc
import sqlite3
import tracemalloc
from contextlib import closing
from sys import getsizeof
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics import history as module
from pushd.topics.history import History, Retention, Topic
from pushd.topics.publication import Id
from pushd.topics.rules import Rule, Rules
from tests.support.hypothesis_settings import NO_DEADLINE

FAR = 1 << 30


class HistoryTestCase(SynchronousTestCase):
    """A history with a fake clock, whose epochs are e1, e2 and so on."""

    def setUp(self) -> None:
        """Keep publications for ten seconds."""
        self.clock = Clock()
        self.keep(ttl=10)

    def keep(self, *rules: Rule, **retention: Any) -> None:
        """Use a history with another retention, and rules for some topics."""
        epochs = iter(range(1, FAR))
        self.rules = Rules(rules)
        self.history = History(
            self.clock,
            Retention(**{"ttl": 10, **retention}),
            lambda: f"e{next(epochs)}",
            rules=self.rules,
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

    def test_again(self) -> None:
        """What is read again is looked up once, until there is more to read, or less."""
        self.keep(size=3)
        for data in "abc":
            self.history.add("t", data)
        kept = self.history._topics["t"].kept = _Counting(self.history._topics["t"].kept)
        for _ in range(2):
            self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.assertEqual(kept.asked, 2)
        self.assertEqual(self.replay("t", "e1:2"), ["c"])
        self.assertEqual(self.replay("t", "e1:1", 1), ["b"])
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.history.add("t", "d")
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c", "d"])
        self.history.trim(1)
        self.assertIsNone(self.replay("t", "e1:1"))
        self.assertEqual(self.replay("t", "e1:2"), ["c", "d"])


class _Counting(dict[int, Any]):
    """A dict that counts lookups, and cannot be iterated over."""

    asked = 0

    def __getitem__(self, key: int) -> Any:
        self.asked += 1
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        raise AssertionError("must not be iterated over")

    keys = values = items = __iter__


class LocateTests(HistoryTestCase):
    """Which id a topic had at a number of all publications."""

    def locate(self, topic: str) -> list[str | None]:
        """Return the id of a topic at each number up to one that is not used yet."""
        found = [self.history.locate(topic, number) for number in range(self.history.sequence + 2)]
        return [None if id is None else str(id) for id in found]

    def test_numbers(self) -> None:
        """Publications of all topics are numbered together; one from the future is not known."""
        numbers = [self.history.add(topic, "x").sequence for topic in "tuut"]
        self.assertEqual(numbers, [1, 2, 3, 4])
        self.assertEqual(self.locate("t"), ["e1:0", "e1:1", "e1:1", "e1:1", "e1:2", None])
        self.assertEqual(self.locate("u"), ["e2:0", "e2:0", "e2:1", "e2:2", "e2:2", None])
        self.assertEqual((self.history.newest("t"), self.history.newest("u")), (4, 3))
        self.assertEqual(self.history.newest("v"), 0)

    def test_dropped(self) -> None:
        """Before the last publication that was dropped, nothing is known."""
        self.keep(size=2)
        for topic in "tttt":
            self.history.add(topic, "x")
        self.assertEqual(self.locate("t"), [None, None, "e1:2", "e1:3", "e1:4", None])

    def test_no_size(self) -> None:
        """If nothing is kept, only the last number is known."""
        self.keep(size=0)
        for topic in "ttu":
            self.history.add(topic, "x")
        self.assertEqual(self.locate("t"), [None, None, "e1:2", "e1:2", None])

    def test_new(self) -> None:
        """A topic that had no publications is at its beginning, and is kept for a while."""
        self.history.add("t", "x")
        self.assertEqual(self.locate("new"), ["e2:0", "e2:0", None])
        self.clock.advance(9)
        self.assertEqual(str(self.history.replay("new", None, FAR).last), "e2:0")

    def test_forgotten(self) -> None:
        """Before the last number of all forgotten topics, nothing is known of those not kept."""
        for topic in "tu":
            self.history.add(topic, "x")
        self.clock.advance(20)
        self.assertEqual(len(self.history), 0)
        self.assertEqual(self.history.add("v", "x").sequence, 3)
        self.assertEqual(self.locate("t"), [None, None, "e4:0", "e4:0", None])
        self.assertEqual(self.locate("v"), [None, None, "e3:0", "e3:1", None])


class PassOverTests(HistoryTestCase):
    """Publications that nobody would ever get."""

    def test_unheard(self) -> None:
        """Of many at once, only those are made that are kept; the others have ids as well."""
        self.keep(size=2)
        self.history.add("t", "before")
        self.history.add("u", "other")
        ids = self.history.pass_over("t", 5)
        self.assertEqual([str(id) for id in ids], ["e1:2", "e1:3", "e1:4"])
        self.assertEqual(self.history.describe("t"), (Id("e1", 4), 0))
        for data in ("a", "b"):
            self.history.add("t", data)
        self.assertEqual(self.replay("t", "e1:4"), ["a", "b"])
        self.assertIsNone(self.replay("t", "e1:3"))
        # Of all topics there were seven.
        self.assertEqual(self.history.newest("t"), 7)
        self.assertIsNone(self.history.locate("t", 4))
        self.assertEqual(self.history.locate("t", 5), Id("e1", 4))

    def test_none(self) -> None:
        """All are made if there are few, if there are subscribers, or if changes are recorded."""
        self.keep(Rule(match="none", history_size=0), size=2)
        self.assertEqual(self.history.pass_over("few", 2), [])
        self.assertEqual(self.history.pass_over("none", 5), [])
        self.history.hold("heard")
        self.assertEqual(self.history.pass_over("heard", 5), [])
        self.history.add("recorded", "a")
        recorder: Any = object()
        self.history.recorder = recorder
        self.assertEqual(self.history.pass_over("recorded", 5), [])


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

    def test_bytes_of_metadata(self) -> None:
        """Metadata count as well."""
        self.history.add("a", "x")
        plain = self.history.bytes
        self.history.add("a", "x", metadata="m" * 100)
        self.assertEqual(self.history.bytes, 2 * plain + 100)

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

    def test_id_given_out_and_trimmed(self) -> None:
        """A topic whose last publication is dropped before its time is kept as long again."""
        id = self.history.add("t", "x").id
        self.clock.advance(9)
        self.history.trim(FAR)
        self.clock.advance(9)
        self.assertEqual(self.history.describe("t"), (id, 0))
        self.assertEqual(self.history.locate("t", 1), id)
        self.clock.advance(10)
        self.assertEqual(self.history.describe("t"), (None, 0))

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
        self.assertEqual(len(seen), 1000)


class RuleTests(HistoryTestCase):
    """Topics with a rule are kept otherwise than the others."""

    def add(self, topic: str, *data: str | bytes) -> None:
        """Publish to a topic."""
        for one in data:
            self.history.add(topic, one)

    def count(self, topic: str) -> int:
        """Return how many publications of a topic are kept."""
        return self.history.describe(topic)[1]

    def counts(self, *topics: str) -> list[int]:
        """Return how many publications of some topics are kept."""
        return [self.count(topic) for topic in topics]

    def check_timer(self) -> None:
        """Check that the one timer, if any, is set to when the next publication expires."""
        self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)

    def test_size(self) -> None:
        """A rule's size holds for its topics, and the daemon's for the others."""
        self.keep(Rule(match="a", history_size=3), Rule(match="b", history_size=0), size=2)
        for topic in "abc":
            self.add(topic, *"123456")
        self.assertEqual(self.counts("a", "b", "c"), [3, 0, 2])
        self.assertEqual(self.replay("a", "e1:3"), ["4", "5", "6"])
        self.assertEqual(self.replay("b", "e2:6"), [])

    def test_ttl(self) -> None:
        """Publications of different rules expire each at its own time, with one timer."""
        self.keep(Rule(match="short", history_ttl=2), Rule(match="long", history_ttl=100))
        for topic in ("long", "short", "other"):
            self.add(topic, "x")
        self.check_timer()
        for seconds, counts in (
            (1.9, [1, 1, 1]),
            (0.1, [1, 0, 1]),
            (7.9, [1, 0, 1]),
            (0.1, [1, 0, 0]),
            (89.9, [1, 0, 0]),
            (0.1, [0, 0, 0]),
        ):
            self.clock.advance(seconds)
            self.assertEqual(self.counts("long", "short", "other"), counts)
            self.check_timer()
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_timer_is_set_later(self) -> None:
        """After what expires first, the timer waits for what expires next."""
        self.keep(Rule(match="short", history_ttl=2))
        self.add("other", "x")
        self.clock.advance(5)
        self.add("short", "x")
        self.clock.advance(2)
        self.assertEqual(self.counts("other", "short"), [1, 0])
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(call.getTime(), 10)

    def test_epoch(self) -> None:
        """The epoch of an idle topic is kept as long as its publications."""
        self.keep(Rule(match="short", history_ttl=2), Rule(match="long", history_ttl=100))
        for topic in ("short", "long", "other"):
            self.history.replay(topic, None, FAR)
        for seconds, names in ((2, ["long", "other"]), (8, ["long"]), (90, [])):
            self.clock.advance(seconds)
            self.assertEqual(self.history.names(), names)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_idle_topics_of_rules(self) -> None:
        """The topics that were used first are forgotten first, whatever their rule."""
        self.patch(module, "_MAX_IDLE", 3)
        self.keep(Rule(match="short/*", history_ttl=2))
        for topic in ("a", "short/b", "c", "short/d", "e"):
            self.history.replay(topic, None, FAR)
            self.clock.advance(0.1)
        self.assertEqual(self.history.names(), ["c", "short/d", "e"])

    def test_bytes(self) -> None:
        """The oldest publications of all topics go first, however long each would be kept."""
        self.keep(Rule(match="a", history_ttl=2), Rule(match="b", history_ttl=100), bytes=15_000)
        for topic in "abcab":
            self.add(topic, b"x" * 3000)
        self.assertEqual(self.counts("a", "b", "c"), [1, 1, 1])
        self.add("c", b"x" * 3000)
        self.assertEqual(self.counts("a", "b", "c"), [1, 1, 1])
        self.assertEqual(self.replay("c", "e3:1"), [b"x" * 3000])

    def test_smaller(self) -> None:
        """After a reload, a smaller size holds from the next publication on."""
        self.keep(Rule(match="a", history_size=9))
        self.add("a", *"12345")
        self.rules.replace(Rules([Rule(match="a", history_size=2)]))
        self.assertEqual(self.count("a"), 5)
        self.add("a", "6")
        self.assertEqual(self.replay("a", "e1:4"), ["5", "6"])
        self.rules.replace(Rules([Rule(match="a", history_size=0)]))
        self.add("a", "7")
        self.assertEqual((self.count("a"), self.history.bytes), (0, 0))
        self.rules.replace(Rules())
        self.add("a", "8")
        self.assertEqual(self.replay("a", "e1:7"), ["8"])

    def test_shorter(self) -> None:
        """After a reload, a shorter time holds from the next publication on.

        Older publications do not outlive it, as a history has no gap.
        """
        self.keep(Rule(match="a", history_ttl=100))
        self.add("a", "1", "2")
        self.rules.replace(Rules([Rule(match="a", history_ttl=2)]))
        self.clock.advance(50)
        self.add("a", "3")
        self.assertEqual(self.replay("a", "e1:0"), ["1", "2", "3"])
        self.clock.advance(2)
        self.assertEqual(self.count("a"), 0)

    def test_longer(self) -> None:
        """After a reload, a longer time holds from the next publication on."""
        self.add("a", "1")
        self.clock.advance(9)
        self.rules.replace(Rules([Rule(match="a", history_ttl=100)]))
        self.add("a", "2")
        self.clock.advance(1)
        self.assertEqual(self.replay("a", "e1:1"), ["2"])
        self.assertIsNone(self.replay("a", "e1:0"))
        self.clock.advance(98)
        self.assertEqual(self.count("a"), 1)
        self.clock.advance(1)
        self.assertEqual(self.count("a"), 0)

    def test_touched_by_other_rule(self) -> None:
        """After a reload, the epoch of an idle topic is kept as the new rule says."""
        self.history.replay("a", None, FAR)
        self.rules.replace(Rules([Rule(match="a", history_ttl=2)]))
        self.history.replay("a", None, FAR)
        self.clock.advance(2)
        self.assertEqual(self.history.names(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RetainTests(HistoryTestCase):
    """The newest publication of a topic is retained, if its rule says so."""

    def setUp(self) -> None:
        """Retain the newest publications of the topics ``r`` and ``r/…``."""
        super().setUp()
        self.keep()

    def keep(self, *rules: Rule, **retention: Any) -> None:
        """Use a history with another retention."""
        retained = (Rule(match="r", retain=True), Rule(match="r/*", retain=True))
        super().keep(*(rules or retained), **retention)

    def begin(self, topic: str, after: str | None = None) -> tuple[str, list[str | bytes]]:
        """Return where a subscriber begins that is not recovered, and what it gets first."""
        replay = self.history.replay(topic, None if after is None else Id.parse(after), FAR)
        self.assertFalse(replay.recovered)
        return str(replay.id), [publication.data for publication in replay.publications]

    def test_first(self) -> None:
        """A new subscriber begins before the newest publication, and gets it."""
        self.assertEqual(self.begin("r"), ("e1:0", []))
        self.history.add("r", "1")
        self.assertEqual(self.begin("r"), ("e1:0", ["1"]))
        self.history.add("r", "2")
        self.assertEqual(self.begin("r"), ("e1:1", ["2"]))
        self.history.add("other", "2")
        self.assertEqual(self.begin("other"), ("e2:1", []))

    def test_not_recovered(self) -> None:
        """A subscriber that cannot resume begins as a new one; others resume as always."""
        self.history.add("r", "1")
        self.history.add("r", "2")
        self.assertEqual(self.begin("r", "e9:1"), ("e1:1", ["2"]))
        self.assertEqual(self.begin("r", "e1:7"), ("e1:1", ["2"]))
        self.assertEqual(self.replay("r", "e1:0"), ["1", "2"])
        self.assertEqual(self.replay("r", "e1:2"), [])

    def test_no_time_limit(self) -> None:
        """The newest publication does not expire, and older ones do. It needs no timer."""
        self.history.add("r", "1")
        self.history.add("r", "2")
        size = self.history.bytes
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.history.bytes, size // 2)
        self.clock.advance(1_000_000)
        self.assertEqual(self.history.describe("r"), (Id("e1", 2), 1))
        self.assertEqual(self.replay("r", "e1:1"), ["2"])
        self.assertEqual(self.begin("r", "e1:0"), ("e1:1", ["2"]))

    def test_replaced(self) -> None:
        """One that is replaced after its time is dropped at once; it may expire before that."""
        self.history.add("r", "1")
        self.clock.advance(11)
        self.history.add("r", "2")
        self.assertEqual(self.history.describe("r"), (Id("e1", 2), 1))
        self.clock.advance(5)
        self.history.add("r", "3")
        self.assertEqual(self.history.describe("r"), (Id("e1", 3), 2))
        self.clock.advance(11)
        self.assertEqual(self.begin("r"), ("e1:2", ["3"]))
        self.assertEqual(self.history.describe("r"), (Id("e1", 3), 1))

    def test_history_of_size_0(self) -> None:
        """The newest publication is kept even if no history is."""
        self.keep(size=0)
        self.history.add("r", "1")
        self.history.add("r", "2")
        self.assertEqual(self.history.describe("r"), (Id("e1", 2), 1))

    def test_bytes(self) -> None:
        """Retained publications count, and are dropped once no others are left to drop."""
        self.keep(bytes=9000)
        self.history.add("r", b"x" * 2000)
        for _ in range(10):
            self.history.add("t", b"x" * 2000)
        self.assertEqual([self.history.describe(topic)[1] for topic in "rt"], [1, 1])
        self.assertLessEqual(self.history.bytes, 9000)
        self.history.add("r/1", b"x" * 2000)
        self.assertEqual([self.history.describe(topic)[1] for topic in ("r", "t")], [1, 0])
        self.history.add("r/2", b"x" * 2000)
        topics = ("r", "r/1", "r/2")
        self.assertEqual([self.history.describe(topic)[1] for topic in topics], [0, 1, 1])

    def test_forget(self) -> None:
        """What is retained can be forgotten, too; a topic that is not known has nothing."""
        self.history.add("r", "1")
        self.history.forget("r")
        self.history.forget("t")
        self.assertEqual((self.history.bytes, len(self.history)), (0, 1))
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)

    def test_trim(self) -> None:
        """If memory runs out, even what is retained is dropped, and the topic with it."""
        self.history.add("r", "1")
        self.history.add("t", "1")
        self.history.trim(1 << 30)
        self.assertEqual((self.history.bytes, len(self.history)), (0, 2))
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dropped_when_rules_change(self) -> None:
        """What outlived its time is dropped, with its topic, once no rule retains it any more."""
        for topic in ("r", "r/1"):
            self.history.add(topic, "x")
        self.clock.advance(10)
        self.rules.replace(Rules([Rule(match="r/1", retain=True)]))
        self.assertEqual(len(self.history), 2)
        self.history.add("t", "x")
        self.assertEqual(self.history.names(), ["r/1", "t"])
        self.assertEqual(self.begin("r"), ("e4:0", []))

    def test_retained_when_rules_change(self) -> None:
        """What is still kept is retained if a rule says so by the time that it expires."""
        self.history.add("t", "x")
        self.rules.replace(Rules([Rule(match="t", retain=True)]))
        self.clock.advance(10)
        self.assertEqual(self.begin("t"), ("e1:0", ["x"]))

    def test_released(self) -> None:
        """A topic that loses its subscribers after a change of rules is handled like any other."""
        self.history.hold("r")
        self.history.add("r", "x")
        self.clock.advance(10)
        self.rules.replace(Rules())
        self.history.release("r")
        self.assertEqual(self.history.describe("r"), (Id("e1", 1), 0))
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)

    def test_located(self) -> None:
        """A cursor from before the retained publication is found as long as it is kept."""
        for data in "12":
            self.history.add("r", data)
        self.clock.advance(10)
        self.assertEqual(self.history.locate("r", 1), Id("e1", 1))
        self.assertEqual(self.history.locate("r", 2), Id("e1", 2))
        self.assertIsNone(self.history.locate("r", 0))
        self.rules.replace(Rules())
        self.assertIsNone(self.history.locate("r", 1))

    def test_stop(self) -> None:
        """``stop`` forgets what is retained, too."""
        self.history.add("r", "1")
        self.clock.advance(10)
        self.history.stop()
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.history.trim(1)


class RuleProperties(HistoryTestCase):
    """Whatever is published under whatever rules, a history has no gap, and counts right."""

    def test_any(self) -> None:
        """Publications, times, reloads and trims in any order."""
        rule = st.builds(
            Rule,
            match=st.sampled_from(["a", "b", "**"]),
            history_size=st.sampled_from([None, 0, 1, 3]),
            history_ttl=st.sampled_from([None, 1, 5, 20]),
            retain=st.booleans(),
        )
        step = st.one_of(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from([0.5, 1, 4, 10, 30]),
            st.lists(rule, max_size=3),
            st.integers(1000, 5000),
            st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(2, 5)),
        )

        @NO_DEADLINE
        @given(st.lists(step, max_size=40), st.sampled_from([4000, FAR]))
        def check(steps: list[Any], limit: int) -> None:
            self.clock = Clock()
            self.keep(size=2, bytes=limit)
            for one in steps:
                self.take(one)
                self.check(limit)
            self.rules.replace(Rules())
            self.history.replay("d", None, FAR)
            self.clock.advance(30)
            self.assertEqual((len(self.history), self.history.bytes), (0, 0))
            self.assertEqual(self.clock.getDelayedCalls(), [])

        check()

    def take(self, step: Any) -> None:
        """Publish one or several, let time pass, reload, or trim."""
        if isinstance(step, tuple):
            topic, count = step
            last = self.history.describe(topic)[0]
            passed = len(self.history.pass_over(topic, count))
            for _ in range(count - passed):
                self.take(topic)
            id = self.history.describe(topic)[0]
            if last is not None and id is not None and last.epoch == id.epoch:
                self.assertEqual(id.offset, last.offset + count)
        elif isinstance(step, str):
            self.history.add(step, step)
            rule = self.rules.find(step)
            limit = 2 if rule.history_size is None else rule.history_size
            self.assertLessEqual(self.history.describe(step)[1], max(limit, rule.retain))
        elif isinstance(step, list):
            self.rules.replace(Rules(step))
        elif step < 1000:
            self.clock.advance(step)
        else:
            self.history.trim(step)

    def check(self, limit: int) -> None:
        """Check what is kept against what is counted."""
        kept = [one for topic in self.history._topics.values() for one in topic.kept.values()]
        for topic in self.history._topics.values():
            offsets = range(topic.offset - len(topic.kept) + 1, topic.offset + 1)
            self.assertEqual(sorted(topic.kept), list(offsets))
        self.assertEqual(self.history.bytes, sum(map(module._size, kept)))
        self.assertLessEqual(self.history.bytes, limit)
        queued = [one for queue in self.history._entries.values() for one in queue]
        self.assertEqual({*kept}, {*queued, *self.history._retained})
        self.assertEqual(len(kept), len(queued) + len(self.history._retained))
