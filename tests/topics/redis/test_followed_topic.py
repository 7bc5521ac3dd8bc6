"""A topic in step with Redis: the past and what comes meet without a gap and without a repeat."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Publication, Replay
from pushd.topics.redis import followed_topic as module
from pushd.topics.redis.followed_topic import FollowedTopic


def made(offset: int, epoch: str = "e", data: str = "") -> Publication:
    """A publication."""
    return Publication("t", data or f"{offset}", Id(epoch, offset))


def past(after: int, last: int, upto: int | None = None, epoch: str = "e") -> Replay:
    """What was read of the past: all, or a piece."""
    some = range(after + 1, (last if upto is None else upto) + 1)
    return Replay(Id(epoch, after), True, tuple(made(one, epoch) for one in some), Id(epoch, last))


def lost(last: int, epoch: str = "e") -> Replay:
    """A past that is not to be had."""
    return Replay(Id(epoch, last), False, (), Id(epoch, last))


class FollowedTests(SynchronousTestCase):
    """What the hub is given."""

    def setUp(self) -> None:
        """Note what it is given."""
        self.given: list[str] = []
        self.followed = FollowedTopic(
            "t",
            lambda publication: self.given.append(str(publication.id)),
            lambda topic, last: self.given.append(f"missed up to {last}"),
        )

    def begin(self, last: int) -> None:
        """Read where the topic stands."""
        self.followed.subscribed = True
        self.assertFalse(self.followed.ready)
        self.followed.read(lost(last))
        self.assertTrue(self.followed.ready)
        self.assertTrue(self.followed.live)

    def test_live(self) -> None:
        """It begins with what comes after the first look; what is next is given at once."""
        self.begin(5)
        self.assertTrue(self.followed.take(made(6)))
        self.assertTrue(self.followed.take(made(7)))
        self.assertEqual(self.given, ["e:6", "e:7"])

    def test_repeat(self) -> None:
        """What was given already is not given again."""
        self.begin(5)
        for offset in (5, 6, 6, 1):
            self.assertTrue(self.followed.take(made(offset)))
        self.assertEqual(self.given, ["e:6"])

    def test_gap(self) -> None:
        """What is missing is asked for, and what came meanwhile follows it."""
        self.begin(5)
        self.assertFalse(self.followed.take(made(7)))
        self.assertFalse(self.followed.live)
        self.assertTrue(self.followed.take(made(8)))
        self.followed.read(past(5, 7))
        self.assertTrue(self.followed.live)
        self.assertEqual(self.given, ["e:6", "e:7", "e:8"])

    def test_early_news(self) -> None:
        """What comes before the first look is done waits, and is not given twice."""
        for offset in (4, 5, 6):
            self.assertTrue(self.followed.take(made(offset)))
        self.followed.read(lost(5))
        self.assertEqual(self.given, ["e:6"])
        self.assertTrue(self.followed.live)

    def test_past_in_pieces(self) -> None:
        """A long past comes in pieces."""
        self.begin(0)
        self.followed.take(made(9))
        self.followed.read(past(0, 9, upto=4))
        self.assertFalse(self.followed.live)
        self.followed.read(past(4, 9))
        self.assertTrue(self.followed.live)
        self.assertEqual(self.given, [f"e:{offset}" for offset in range(1, 10)])

    def test_old_answer(self) -> None:
        """A past that was read twice at once is given once."""
        self.begin(0)
        self.followed.take(made(3))
        self.followed.read(past(0, 3))
        self.followed.read(past(0, 2))
        self.assertEqual(self.given, ["e:1", "e:2", "e:3"])
        self.assertTrue(self.followed.live)

    def test_gap_behind_the_past(self) -> None:
        """Where what waits does not follow what was read, more is read."""
        self.begin(0)
        self.followed.take(made(3))
        self.followed.take(made(5))
        self.followed.read(past(0, 3))
        self.assertFalse(self.followed.live)
        self.followed.read(past(3, 5))
        self.assertTrue(self.followed.live)
        self.assertEqual(self.given, [f"e:{offset}" for offset in range(1, 6)])

    def test_missed(self) -> None:
        """What is not kept any more is told of, and it goes on behind it."""
        self.begin(0)
        self.followed.take(made(9))
        self.followed.read(lost(9))
        self.followed.take(made(10))
        self.assertEqual(self.given, ["missed up to e:9", "e:10"])

    def test_new_epoch(self) -> None:
        """Another epoch is a gap, whatever its offsets are."""
        self.begin(5)
        self.assertFalse(self.followed.take(made(6, "f")))
        self.followed.read(lost(6, "f"))
        self.followed.take(made(7, "f"))
        self.assertEqual(self.given, ["missed up to f:6", "f:7"])

    def test_old_news_of_an_old_epoch(self) -> None:
        """News of an epoch that is over makes it look once more, and no harm is done."""
        self.begin(5)
        self.assertFalse(self.followed.take(made(6, "old")))
        self.followed.read(past(5, 5))
        self.assertFalse(self.followed.live)
        self.followed.read(past(5, 5))
        self.assertTrue(self.followed.live)
        self.assertEqual(self.given, [])

    def test_bounds(self) -> None:
        """Only so much waits, in number and in bytes; the rest is read again."""
        for name, most in [("_MAX_WAITING", 2), ("_MAX_BYTES", 2)]:
            self.setUp()
            self.begin(0)
            self.patch(module, name, most)
            for offset in (2, 3, 4):
                self.followed.take(made(offset))
            self.followed.read(past(0, 2))
            self.assertFalse(self.followed.live)
            self.assertEqual(self.given, ["e:1", "e:2", "e:3"])
            self.followed.read(past(3, 4))
            self.assertTrue(self.followed.live)
            self.assertEqual(self.given, ["e:1", "e:2", "e:3", "e:4"])
            module._MAX_WAITING = 1000

    def test_interrupted(self) -> None:
        """After an interruption it reads on from where it was."""
        self.begin(0)
        self.followed.take(made(1))
        self.followed.take(made(3))
        self.followed.interrupt()
        self.assertFalse(self.followed.ready or self.followed.live)
        self.followed.subscribed = True
        self.followed.read(past(1, 4))
        self.assertEqual(self.given, ["e:1", "e:2", "e:3", "e:4"])
        self.assertTrue(self.followed.live)
