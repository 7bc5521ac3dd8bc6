"""A followed topic: history and messages are put in order, without gaps or repeats."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Publication, Replay, size_of
from pushd.topics.redis import followed_topic as module
from pushd.topics.redis.followed_topic import FollowedTopic
from pushd.topics.redis.waiters import Waiters, make_timeouts


def made(offset: int, epoch: str = "e") -> Publication:
    """Make a publication."""
    return Publication("t", f"{offset}", Id(epoch, offset))


def replay(after: int, last: int, upto: int | None = None, epoch: str = "e") -> Replay:
    """Make a replay of the history after an offset: all of it, or a part."""
    some = range(after + 1, (last if upto is None else upto) + 1)
    return Replay(Id(epoch, after), True, tuple(made(one, epoch) for one in some), Id(epoch, last))


def gap(last: int, epoch: str = "e") -> Replay:
    """Make the replay of a history that does not reach back far enough."""
    return Replay(Id(epoch, last), False, (), Id(epoch, last))


class FollowedTopicTests(SynchronousTestCase):
    """What is delivered to the hub, and in which order."""

    def setUp(self) -> None:
        """Record what is delivered."""
        self.delivered: list[str] = []
        self.topic = FollowedTopic(
            "t",
            lambda publication: self.delivered.append(str(publication.id)),
            lambda topic, last: self.delivered.append(f"gap up to {last}"),
            Waiters(make_timeouts(Clock(), lambda: None)),
        )

    def begin(self, last: int) -> None:
        """Do the first read, which gives the last id."""
        self.topic.subscribed = True
        self.assertFalse(self.topic.ready)
        self.topic.catch_up(gap(last))
        self.assertTrue(self.topic.ready)
        self.assertTrue(self.topic.live)

    def test_live(self) -> None:
        """After the first read, the next publication is delivered at once."""
        self.begin(5)
        self.assertTrue(self.topic.receive(made(6)))
        self.assertTrue(self.topic.receive(made(7)))
        self.assertEqual(self.delivered, ["e:6", "e:7"])

    def test_repeat(self) -> None:
        """A publication is delivered once, however often it comes."""
        self.begin(5)
        for offset in (5, 6, 6, 1):
            self.assertTrue(self.topic.receive(made(offset)))
        self.assertEqual(self.delivered, ["e:6"])

    def test_gap(self) -> None:
        """After a gap the history is read; what comes meanwhile is delivered after it."""
        self.begin(5)
        self.assertFalse(self.topic.receive(made(7)))
        self.assertFalse(self.topic.live)
        self.assertTrue(self.topic.receive(made(8)))
        self.topic.catch_up(replay(5, 7))
        self.assertTrue(self.topic.live)
        self.assertEqual(self.delivered, ["e:6", "e:7", "e:8"])

    def test_early_messages(self) -> None:
        """Messages before the first read are buffered, and delivered only if they are newer."""
        for offset in (4, 5, 6):
            self.assertTrue(self.topic.receive(made(offset)))
        self.topic.catch_up(gap(5))
        self.assertEqual(self.delivered, ["e:6"])
        self.assertTrue(self.topic.live)

    def test_history_in_parts(self) -> None:
        """A long history is read in several parts; the topic is live after the last."""
        self.begin(0)
        self.topic.receive(made(9))
        self.topic.catch_up(replay(0, 9, upto=4))
        self.assertFalse(self.topic.live)
        self.topic.catch_up(replay(4, 9))
        self.assertTrue(self.topic.live)
        self.assertEqual(self.delivered, [f"e:{offset}" for offset in range(1, 10)])

    def test_old_answer(self) -> None:
        """A second, older read of the same history delivers nothing again."""
        self.begin(0)
        self.topic.receive(made(3))
        self.topic.catch_up(replay(0, 3))
        self.topic.catch_up(replay(0, 2))
        self.assertEqual(self.delivered, ["e:1", "e:2", "e:3"])
        self.assertTrue(self.topic.live)

    def test_gap_after_the_history(self) -> None:
        """If the buffer does not follow the history, the history is read again."""
        self.begin(0)
        self.topic.receive(made(3))
        self.topic.receive(made(5))
        self.topic.catch_up(replay(0, 3))
        self.assertFalse(self.topic.live)
        self.topic.catch_up(replay(3, 5))
        self.assertTrue(self.topic.live)
        self.assertEqual(self.delivered, [f"e:{offset}" for offset in range(1, 6)])

    def test_lost(self) -> None:
        """If the history is lost, ``on_gap`` is called, and delivery continues after the gap."""
        self.begin(0)
        self.topic.receive(made(9))
        self.topic.catch_up(gap(9))
        self.topic.receive(made(10))
        self.assertEqual(self.delivered, ["gap up to e:9", "e:10"])

    def test_new_epoch(self) -> None:
        """A new epoch is a gap, even if the offsets fit."""
        self.begin(5)
        self.assertFalse(self.topic.receive(made(6, "f")))
        self.topic.catch_up(gap(6, "f"))
        self.topic.receive(made(7, "f"))
        self.assertEqual(self.delivered, ["gap up to f:6", "f:7"])

    def test_late_message_of_an_old_epoch(self) -> None:
        """A late message of an old epoch causes one more read, and nothing else."""
        self.begin(5)
        self.assertFalse(self.topic.receive(made(6, "old")))
        self.topic.catch_up(replay(5, 5))
        self.assertFalse(self.topic.live)
        self.topic.catch_up(replay(5, 5))
        self.assertTrue(self.topic.live)
        self.assertEqual(self.delivered, [])

    def test_bounds(self) -> None:
        """The buffer is limited in number and in bytes; the rest is read from the history."""
        two = 2 * size_of(made(1).data)
        for name, limit in [("_MAX_BUFFERED", 2), ("_MAX_BUFFERED_BYTES", two)]:
            self.setUp()
            self.begin(0)
            patched = self.patch(module, name, limit)
            for offset in (2, 3, 4):
                self.topic.receive(made(offset))
            self.topic.catch_up(replay(0, 2))
            self.assertFalse(self.topic.live)
            self.assertEqual(self.delivered, ["e:1", "e:2", "e:3"])
            self.topic.catch_up(replay(3, 4))
            self.assertTrue(self.topic.live)
            self.assertEqual(self.delivered, ["e:1", "e:2", "e:3", "e:4"])
            patched.restore()

    def test_disconnected(self) -> None:
        """After a lost session, the history is read from the position on."""
        self.begin(0)
        self.topic.receive(made(1))
        self.topic.receive(made(3))
        self.topic.disconnected()
        self.assertFalse(self.topic.ready or self.topic.live)
        self.topic.subscribed = True
        self.topic.catch_up(replay(1, 4))
        self.assertEqual(self.delivered, ["e:1", "e:2", "e:3", "e:4"])
        self.assertTrue(self.topic.live)
