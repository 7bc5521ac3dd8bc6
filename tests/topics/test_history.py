"""The past of topics: what is kept, for how long, and what it costs."""

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
    """A history under a clock, whose epochs are e1, e2 and so on."""

    def setUp(self) -> None:
        """Keep ten seconds."""
        self.clock = Clock()
        self.keep(ttl=10)

    def keep(self, **retention: Any) -> None:
        """Take a history that keeps so much."""
        epochs = iter(range(1, FAR))
        self.history = History(
            self.clock, Retention(**{"ttl": 10, **retention}), lambda: f"e{next(epochs)}"
        )

    def replay(self, topic: str, after: str | None, limit: int = FAR) -> list[str | bytes] | None:
        """The data since an id; None where that can't be told."""
        replay = self.history.replay(topic, None if after is None else Id.parse(after), limit)
        self.assertEqual(replay.last, self.history.describe(topic)[0])
        if not replay.recovered:
            self.assertEqual((replay.publications, replay.id), ((), replay.last))
            return None
        self.assertEqual(str(replay.id), after)
        return [publication.data for publication in replay.publications]


class IdTests(HistoryTestCase):
    """What ids are given."""

    def test_offsets(self) -> None:
        """Publications count 1, 2, 3… in each topic's own epoch."""
        ids = [str(self.history.add(topic, "x").id) for topic in "aabab"]
        self.assertEqual(ids, ["e1:1", "e1:2", "e2:1", "e1:3", "e2:2"])

    def test_publication(self) -> None:
        """A publication is what was given."""
        publication = self.history.add("a", b"x")
        self.assertEqual((publication.topic, publication.data), ("a", b"x"))

    def test_new_epoch(self) -> None:
        """A topic that was forgotten begins a new epoch."""
        self.history.add("a", "1")
        self.clock.advance(10)
        self.assertEqual(str(self.history.add("a", "2").id), "e2:1")

    def test_describe(self) -> None:
        """A topic's last id and length can be asked for, and asking makes no topic."""
        self.assertEqual(self.history.describe("a"), (None, 0))
        self.assertEqual(self.history.names(), [])
        self.history.add("a", "1")
        self.history.replay("b", None, FAR)
        self.assertEqual(self.history.describe("a"), (Id("e1", 1), 1))
        self.assertEqual(self.history.describe("b"), (Id("e2", 0), 0))
        self.assertEqual(self.history.names(), ["a", "b"])


class ReplayTests(HistoryTestCase):
    """What is given to one who was here before."""

    def test_since(self) -> None:
        """Everything behind the id, in order; nothing when that was the last."""
        for data in "abc":
            self.history.add("t", data)
        self.assertEqual(self.replay("t", "e1:0"), ["a", "b", "c"])
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.assertEqual(self.replay("t", "e1:3"), [])

    def test_not_recovered(self) -> None:
        """No id, another epoch, an offset that is gone or not given yet: it can't be told."""
        self.keep(size=2)
        for data in "abc":
            self.history.add("t", data)
        for after in (None, "e9:2", "e1:0", "e1:4"):
            self.assertIsNone(self.replay("t", after), after)

    def test_limit(self) -> None:
        """No more is given once the limit is reached, but the first is; ``last`` tells of more."""
        for data in "abc":
            self.history.add("t", data)
        self.assertEqual(self.replay("t", "e1:0", 0), ["a"])
        self.assertEqual(self.replay("t", "e1:1", 1), ["b"])
        self.assertEqual(self.replay("t", "e1:0", 2000), ["a", "b"])

    def test_cost(self) -> None:
        """Resuming touches only what is resumed, wherever in a long history that stands."""
        self.keep(size=FAR, bytes=FAR)
        for number in range(3000):
            self.history.add("t", str(number))
        kept = self.history._topics["t"].kept = _Counting(self.history._topics["t"].kept)
        for after in (0, 1500, 2998):
            kept.asked = 0
            self.assertEqual(self.replay("t", f"e1:{after}", 1), [str(after)])
            self.assertEqual(kept.asked, 1)


class _Counting(dict[int, Any]):
    """A dict that counts what is looked up, and can't be walked through."""

    asked = 0

    def __getitem__(self, key: int) -> Any:
        self.asked += 1
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        raise AssertionError("nobody is to walk through all of it")

    keys = values = items = __iter__


class BoundTests(HistoryTestCase):
    """How much is kept."""

    def test_size(self) -> None:
        """Of each topic, so many."""
        self.keep(size=2)
        for data in "abc":
            self.history.add("t", data)
            self.history.add("u", data)
        self.assertEqual(self.replay("t", "e1:1"), ["b", "c"])
        self.assertEqual(self.replay("u", "e2:1"), ["b", "c"])

    def test_no_size(self) -> None:
        """None at all, where none are wanted; the ids go on counting."""
        self.keep(size=0)
        self.history.add("t", "a")
        self.assertEqual(self.replay("t", "e1:1"), [])
        self.assertEqual(str(self.history.add("t", "b").id), "e1:2")
        self.assertIsNone(self.replay("t", "e1:1"))
        self.assertEqual(self.history.bytes, 0)

    def test_ttl(self) -> None:
        """None that is older than that, to the moment."""
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
        """Of all together, so many bytes: the oldest go first, whatever their topic."""
        self.keep(bytes=15_000)
        for topic in "abcab":
            self.history.add(topic, b"x" * 3000)
            self.assertLessEqual(self.history.bytes, 15_000)
        self.assertEqual(self.replay("a", "e1:1"), [b"x" * 3000])
        self.assertIsNone(self.replay("a", "e1:0"))
        self.assertIsNone(self.replay("b", "e2:0"))
        self.assertEqual(self.replay("c", "e3:0"), [b"x" * 3000])

    def test_bytes_of_text(self) -> None:
        """Text counts for what it takes in memory, not for its letters."""
        self.history.add("t", "😀" * 1000)
        self.assertGreater(self.history.bytes, 4000)

    def test_bytes_of_text_that_grows(self) -> None:
        """Text that is larger when it goes than when it came leaves nothing behind in the count."""
        text = "é€" * 1000
        self.history.add("t", text)
        before, counted = getsizeof(text), self.history.bytes
        # Python keeps the UTF-8 that a library has asked it for.
        with closing(sqlite3.connect(":memory:")) as database:
            database.execute("select ?", (text,))
        self.assertGreater(getsizeof(text), before)
        self.assertEqual(self.history.bytes, counted)
        self.clock.advance(11)
        self.assertEqual(self.history.bytes, 0)

    def test_too_big_to_keep(self) -> None:
        """One that alone is too much is not kept; the id that it had still counts."""
        self.keep(bytes=2000)
        self.history.add("t", "small")
        self.history.add("t", b"x" * 3000)
        self.assertEqual(self.history.bytes, 0)
        self.assertEqual(self.replay("t", "e1:2"), [])
        self.assertIsNone(self.replay("t", "e1:1"))
        self.assertEqual(str(self.history.add("t", "c").id), "e1:3")


class ForgettingTests(HistoryTestCase):
    """A topic that nobody uses takes no memory and no time."""

    def test_used_once(self) -> None:
        """One that was published to is forgotten with its last publication."""
        self.history.add("t", "a")
        self.clock.advance(9.9)
        self.assertEqual(len(self.history), 1)
        self.clock.advance(0.1)
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_asked_for(self) -> None:
        """One whose id was handed out keeps its epoch as long as a publication would be kept."""
        self.history.replay("t", None, FAR)
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), [])
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), [])
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)

    def test_asked_for_late(self) -> None:
        """That counts from the last time, also where there was a publication before."""
        self.history.add("t", "a")
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:0"), ["a"])
        self.clock.advance(9)
        self.assertEqual(self.replay("t", "e1:1"), [])

    def test_held(self) -> None:
        """One that somebody listens to is not forgotten, and costs no timer."""
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
        """Holding stops the time that a release has started."""
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
        """However many topics and publications there are, there is one delayed call."""
        for number in range(100):
            self.history.add(f"t{number}", "a")
            self.history.replay(f"u{number}", None, FAR)
            self.clock.advance(0.01)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_bounded(self) -> None:
        """Who asks for topics that nobody knows can't fill the memory: the oldest are forgotten."""
        self.patch(module, "_MAX_IDLE", 3)
        self.history.add("kept", "a")
        self.history.hold("held")
        for number in range(10):
            self.history.replay(f"t{number}", None, FAR)
        self.assertEqual(self.history.names(), ["kept", "held", "t7", "t8", "t9"])

    def test_stop(self) -> None:
        """At the end, everything is forgotten, the timer included."""
        self.history.add("t", "a")
        self.history.hold("u")
        self.history.stop()
        self.assertEqual((len(self.history), self.history.bytes), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.history.stop()

    def test_memory(self) -> None:
        """A topic used once leaves no memory behind, and takes no more than is counted for it."""
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
        """When many are due at once, each is looked at once: no walk over those before it."""
        self.keep(bytes=FAR)
        for number in range(1000):
            self.history.add(f"t{number}", "x")
        seen = []
        forget = self.history._forget

        def note(topic: Topic) -> None:
            seen.append(topic)
            forget(topic)

        self.patch(self.history, "_forget", note)
        self.clock.advance(10)
        self.assertEqual(len(self.history), 0)
        self.assertEqual(len(seen), 2000)
