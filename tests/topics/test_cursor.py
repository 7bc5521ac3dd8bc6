"""Cursors: their text form, and trackers that keep the positions of a connection's topics."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.cursor import (
    LOST,
    MAX_CURSOR,
    UNKNOWN,
    Cursor,
    CursorTracker,
    Position,
    hash_topic,
)
from pushd.topics.publication import Id, Publication


class CursorTests(SynchronousTestCase):
    """The text form of cursors."""

    def test_text(self) -> None:
        """A cursor is its generation and sequence, then the topics at each other position."""
        hashes = {topic: hash_topic("g", topic) for topic in "abc"}
        positions: dict[str, Position] = {hashes["a"]: 7, hashes["b"]: Id("e", 3)}
        positions[hashes["c"]] = 7
        cursor = Cursor("g", 12, positions)
        text = f"g.12~7.{hashes['a']}{hashes['c']}~e:3.{hashes['b']}"
        self.assertEqual(str(cursor), text)
        self.assertEqual(Cursor.parse(text), cursor)
        self.assertEqual(str(Cursor("g", 12)), "g.12")
        self.assertEqual([cursor.position(topic) for topic in "abcd"], [7, Id("e", 3), 7, 12])

    def test_hash(self) -> None:
        """A topic is named by 8 characters, which differ in another generation."""
        hashes = {hash_topic(generation, topic) for generation in "gh" for topic in ("a", "b/c")}
        self.assertEqual(len(hashes), 4)
        self.assertTrue(all(len(one) == 8 for one in hashes))

    def test_malformed(self) -> None:
        """Anything else is refused, and an id is no cursor."""
        hashed = hash_topic("g", "a")
        for text in (
            "",
            "g",
            "e:1",
            "g.",
            "g.01",
            "g.-1",
            ".1",
            "g.1~",
            "g.1~2",
            "g.1~2.abc",
            f"g.1~x.{hashed}",
            f"g.1~2.{hashed}x",
            f"g.1~e:1.{hashed} ",
            f"g.1~2.{hashed}\n",
            "g.1" + f"~2.{hashed}" * (MAX_CURSOR // 11 + 1),
        ):
            self.assertRaises(ValueError, Cursor.parse, text)
        self.assertRaises(ValueError, Id.parse, "g.1")


class Progress:
    """What a hub has settled, as a test decides."""

    generation = "g"

    def __init__(self) -> None:
        #: Everything up to here was delivered; and up to where a run that is being delivered goes.
        self.sequence = 10
        self.run: tuple[str, int] | None = None
        self.last: dict[str, int] = {}

    def settled(self, beside: str = "") -> int:
        """Return what is settled."""
        if self.run is not None and self.run[0] == beside:
            return self.run[1]
        return self.sequence

    def newest(self, topic: str) -> int:
        """Return the sequence of the newest publication of a topic."""
        return self.last.get(topic, 0)

    def is_newest(self, topic: str, id: Id) -> bool:
        """Return False: the history must be read."""
        return False


class TrackerTests(SynchronousTestCase):
    """The cursor of a connection."""

    def setUp(self) -> None:
        """Make a tracker of a connection with two topics, which are live."""
        self.progress = Progress()
        self.tracker = CursorTracker(self.progress)
        for topic in "ab":
            self.begin(topic)

    def begin(self, topic: str) -> None:
        """Begin a subscription with what comes next."""
        self.tracker.started(topic, None)
        self.tracker.began(topic, Id(f"e{topic}", 0), False)
        self.tracker.caught_up(topic)

    def write(self, topic: str, sequence: int, offset: int = 1) -> str:
        """Write a publication, and return the cursor that goes with it."""
        id = Id(f"e{topic}", offset)
        self.tracker.delivered(Publication(topic, "x", id, sequence=sequence))
        return self.tracker.value()

    def shown(self, text: str) -> str:
        """Return a cursor with the names of topics in place of their hashes."""
        for topic in "abcd":
            text = text.replace(hash_topic("g", topic), topic)
        return text

    def check(self, text: str, expected: str) -> None:
        """Check a cursor, and that it can be read back."""
        self.assertEqual(self.shown(text), expected)
        self.assertEqual(str(Cursor.parse(text)), text)

    def test_live(self) -> None:
        """Topics that get what is published have no exceptions, however many there are."""
        self.check(self.tracker.value(), "g.10")
        for number in range(100):
            self.begin(f"t{number}")
        self.progress.run = ("a", 11)
        self.check(self.write("a", 11), "g.11")
        self.progress.sequence, self.progress.run = 12, None
        self.check(self.tracker.value(), "g.12")

    def test_runs(self) -> None:
        """What a topic gets before publications of others that precede it is an exception."""
        self.progress.run = ("a", 12)  # 13 is of another topic
        self.check(self.write("a", 11), "g.11")
        self.check(self.write("a", 12), "g.12")
        self.check(self.write("a", 14), "g.12~14.a")
        self.progress.run = ("b", 1 << 60)
        self.check(self.write("b", 13), "g.13~14.a")
        self.progress.sequence = 14
        self.check(self.tracker.value(), "g.14")

    def test_catching_up(self) -> None:
        """A topic that reads the history is an exception at its own position."""
        self.tracker.started("c", Id("ec", 4))
        self.check(self.tracker.value(), "g.10~ec:4.c")
        self.tracker.began("c", Id("ec", 4), True)
        self.progress.run = ("a", 11)
        self.check(self.write("a", 11), "g.11~ec:4.c")
        self.check(self.write("c", 6, offset=5), "g.11~6.c")
        self.progress.last["c"] = 9
        self.check(self.write("c", 9, offset=6), "g.11~9.c")
        self.progress.run, self.progress.sequence = None, 11
        self.tracker.caught_up("c")
        self.check(self.tracker.value(), "g.11")

    def test_ahead(self) -> None:
        """A topic that has read what the hub has not delivered is an exception until then."""
        self.tracker.started("c", Id("ec", 0))
        self.tracker.began("c", Id("ec", 1), False)
        self.progress.last["c"] = 12
        self.tracker.caught_up("c")
        self.check(self.tracker.value(), "g.10~ec:1.c")
        self.progress.sequence = 12
        self.check(self.tracker.value(), "g.12")

    def test_behind(self) -> None:
        """A topic that falls behind keeps the position that it had."""
        self.tracker.fell_behind("a")
        self.progress.run = ("b", 12)
        self.check(self.write("b", 12), "g.12~10.a")
        self.check(self.write("a", 11), "g.12~11.a")
        self.tracker.fell_behind("a")
        self.progress.sequence = 12
        self.tracker.caught_up("a")
        self.check(self.tracker.value(), "g.12")

    def test_behind_ahead(self) -> None:
        """A topic that is ahead of others, and falls behind, keeps its position as well."""
        self.check(self.write("a", 12), "g.10~12.a")
        self.tracker.fell_behind("a")
        self.progress.sequence = 13
        self.check(self.tracker.value(), "g.13~12.a")

    def test_dropped(self) -> None:
        """A topic that was unsubscribed from is no exception."""
        self.tracker.fell_behind("a")
        self.tracker.started("c", Id("ec", 1))
        self.write("b", 12)
        for topic in "abc":
            self.tracker.dropped(topic)
        self.check(self.tracker.value(), "g.10")

    def test_resumed(self) -> None:
        """A connection that resumes begins with the cursor that it was given."""
        given = Cursor("g", 6, {hash_topic("g", "b"): 4, hash_topic("g", "c"): Id("ec", 2)})
        self.tracker = CursorTracker(self.progress, given)
        for topic in "abcd":
            self.tracker.started(topic, given)
        self.assertEqual(self.tracker.value(), str(given))
        # Most topics are at the given sequence still: those that are not are the exceptions.
        self.tracker.began("a", Id("ea", 1), True)
        self.check(self.write("a", 7), "g.6~4.b~ec:2.c~7.a")
        self.tracker.caught_up("a")
        self.check(self.tracker.value(), "g.10~4.b~ec:2.c~6.d")
        for topic in "bcd":
            self.tracker.began(topic, Id(f"e{topic}", 1), True)
            self.tracker.caught_up(topic)
        self.check(self.tracker.value(), "g.10")

    def test_many_resume(self) -> None:
        """While a hundred topics catch up, the cursor has less than half of them in one group."""
        given = Cursor("g", 6)
        self.tracker = CursorTracker(self.progress, given)
        topics = [f"t{number}" for number in range(100)]
        for topic in topics:
            self.tracker.started(topic, given)
        longest = 0
        for topic in topics:
            self.tracker.began(topic, Id("e", 1), True)
            longest = max(longest, len(self.write(topic, 8)))
            self.tracker.caught_up(topic)
        self.assertLess(longest, 450)
        self.check(self.tracker.value(), "g.10")

    def test_other_generation(self) -> None:
        """A cursor of another generation proves nothing, until the client knows that."""
        given = Cursor("h", 99, {hash_topic("h", "b"): Id("eb", 2)})
        self.tracker = CursorTracker(self.progress, given)
        for topic in "ab":
            self.tracker.started(topic, given)
        self.check(self.tracker.value(), f"g.10~{LOST}.a~eb:2.b")
        self.tracker.began("a", Id("ea", 5), False)
        self.tracker.caught_up("a")
        self.check(self.tracker.value(), "g.10~eb:2.b")
        self.assertEqual(LOST.epoch, UNKNOWN)

    def test_new_generation(self) -> None:
        """A generation that begins before the first subscription does is that of the cursor.

        What was known in the old one proves nothing any more; ids do.
        """
        given = Cursor("g", 10, {hash_topic("g", "b"): 7, hash_topic("g", "c"): Id("ec", 2)})
        self.tracker = CursorTracker(self.progress, given)
        for topic in "abc":
            self.tracker.started(topic, given)
        self.check(self.tracker.value(), "g.10~7.b~ec:2.c")
        self.progress.generation, self.progress.sequence = "n", 3
        self.tracker.began("a", Id("ea", 1), False)
        self.check_new(self.tracker.value(), f"n.3~{LOST}.b~ec:2.c~ea:1.a")
        self.tracker.caught_up("a")
        self.progress.sequence = 4
        self.check_new(self.write("a", 4, offset=2), f"n.4~{LOST}.b~ec:2.c")
        # It was found after all, at a node that had been told of the new generation.
        self.tracker.began("b", Id("eb", 6), True)
        self.check_new(self.tracker.value(), "n.4~ec:2.c~eb:6.b")

    def check_new(self, text: str, expected: str) -> None:
        """Check a cursor of the generation "n"."""
        for topic in "abcd":
            text = text.replace(hash_topic("n", topic), topic)
        self.assertEqual(sorted(text.split("~")), sorted(expected.split("~")))

    def test_waiting_for_generation(self) -> None:
        """A topic at the base of an old generation is not at that of the new one."""
        given = Cursor("g", 10)
        self.tracker = CursorTracker(self.progress, given)
        for topic in "ab":
            self.tracker.started(topic, given)
        self.progress.generation, self.progress.sequence = "n", 10
        self.tracker.began("a", Id("ea", 1), False)
        self.check_new(self.tracker.value(), f"n.10~{LOST}.b~ea:1.a")

    def test_old_generation(self) -> None:
        """A connection with a subscription of the old generation keeps that: it is closed soon."""
        self.progress.generation = "n"
        self.begin("c")
        self.check(self.tracker.value(), "g.10")

    def test_other_node(self) -> None:
        """A cursor may be ahead of what this node knows; a topic that begins here is not."""
        given = Cursor("g", 15)
        self.tracker = CursorTracker(self.progress, given)
        self.tracker.started("a", given)
        self.tracker.began("a", Id("ea", 5), True)
        self.tracker.caught_up("a")
        self.progress.last["c"] = 8
        self.begin("c")
        self.check(self.tracker.value(), "g.15~10.c")
        self.progress.sequence, self.progress.run = 13, ("c", 14)
        self.check(self.write("c", 14), "g.15~14.c")
        self.progress.sequence, self.progress.run = 15, None
        self.check(self.tracker.value(), "g.15")

    def test_not_numbered(self) -> None:
        """A publication that an older node has made is an exception by its id."""
        self.check(self.write("a", 0, offset=7), "g.10~ea:7.a")
        self.progress.sequence = 12
        self.check(self.tracker.value(), "g.12~ea:7.a")
        self.check(self.write("a", 12, offset=8), "g.12")
