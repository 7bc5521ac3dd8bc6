"""What goes to Redis' scripts and comes from them; ``tests/live`` runs the scripts."""

from __future__ import annotations

from hashlib import sha1

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Replay
from pushd.topics.redis.scripts import (
    ALL,
    PUBLISH,
    channel_name,
    encode,
    idempotency_key,
    read_id,
    read_notice,
    read_replay,
    read_topic,
    topic_keys,
)


class NameTests(SynchronousTestCase):
    """What things are called in Redis."""

    def test_keys(self) -> None:
        """All keys of a topic share a hash tag, and the topic can be read from its key."""
        topic, history = topic_keys("a/b:c")
        self.assertEqual((topic, history), ("pushd:{a/b:c}:topic", "pushd:{a/b:c}:history"))
        self.assertEqual(idempotency_key("t", "k"), "pushd:{t}:key:k")
        self.assertEqual(read_topic(topic.encode()), "a/b:c")

    def test_channel(self) -> None:
        """A channel says whose database it is for."""
        self.assertEqual(channel_name(3, "a/b"), b"pushd:3:a/b")

    def test_scripts(self) -> None:
        """A script is known by its SHA-1."""
        self.assertEqual(PUBLISH.name, sha1(PUBLISH.source.encode()).hexdigest())
        self.assertEqual(len({script.name for script in ALL}), 4)


class DataTests(SynchronousTestCase):
    """What is published, in bytes."""

    def test_notice(self) -> None:
        """Text and bytes come through as they were."""
        for data in ("", "ä b", b"", b"\xff 1"):
            kind, encoded = encode(data)
            notice = read_notice("t", b"e:7 " + kind.encode() + encoded)
            self.assertEqual((notice.topic, notice.data, notice.id), ("t", data, Id("e", 7)))

    def test_no_notice(self) -> None:
        """What others may say on our channels is no notice."""
        for notice in (b"", b"x", b"e:1", b"e:1 ", b"e:1 x", b"e tx", b"e:-1 tx", b"e:1 t\xff"):
            self.assertRaises(ValueError, read_notice, "t", notice)

    def test_id(self) -> None:
        """An id is what it is everywhere."""
        self.assertEqual(read_id(b"e-_:12"), Id("e-_", 12))
        self.assertRaises(ValueError, read_id, b"\xff:1")


class ReplayTests(SynchronousTestCase):
    """The past as the script tells it."""

    def test_replay(self) -> None:
        """The publications follow the id that was asked for."""
        entries = [[b"3-1000", b"t", b"a"], [b"4-1001", b"b", b"\xff"]]
        replay = read_replay("t", [b"e", b"2", 1, b"9", entries])
        self.assertEqual((replay.id, replay.recovered, replay.last), (Id("e", 2), True, Id("e", 9)))
        self.assertEqual(
            [(str(one.id), one.data) for one in replay.publications],
            [("e:3", "a"), ("e:4", b"\xff")],
        )

    def test_nothing(self) -> None:
        """There may be nothing new, or nothing that can be told."""
        for recovered in (0, 1):
            replay = read_replay("t", [b"e", b"2", recovered, b"2", []])
            self.assertEqual(replay, Replay(Id("e", 2), recovered == 1, (), Id("e", 2)))

    def test_damaged(self) -> None:
        """A past from which others have taken something is not to be had."""
        lost = Replay(Id("e", 4), False, (), Id("e", 4))
        gap = [[b"3-1", b"t", b"a"], [b"5-1", b"t", b"b"]]
        self.assertEqual(read_replay("t", [b"e", b"2", 1, b"4", gap]), lost)
        self.assertEqual(read_replay("t", [b"e", b"2", 1, b"4", []]), lost)
