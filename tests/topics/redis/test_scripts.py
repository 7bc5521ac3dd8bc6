"""Arguments and answers of the scripts; ``tests/live`` runs the scripts themselves."""

from __future__ import annotations

from fnmatch import fnmatchcase
from hashlib import sha1
from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Replay
from pushd.topics.redis.scripts import (
    ALL,
    PUBLISH,
    RedisNames,
    decode,
    encode,
    read_id,
    read_message,
    read_replay,
)
from tests.support.hypothesis_settings import NO_DEADLINE

NAMES = RedisNames()


class NameTests(SynchronousTestCase):
    """The names of keys, channels and scripts."""

    def test_keys(self) -> None:
        """All keys of a topic share a hash tag, and the topic can be read from its key."""
        topic, history = NAMES.topic_keys("a/b:c")
        self.assertEqual((topic, history), ("pushd:{a/b:c}:topic", "pushd:{a/b:c}:history"))
        self.assertRegex(NAMES.idempotency_key("t", "k"), r"^pushd:\{t\}:key:[0-9a-f]{64}$")
        self.assertNotEqual(NAMES.idempotency_key("t", "k"), NAMES.idempotency_key("t", "K"))
        self.assertEqual(NAMES.read_topic(topic.encode()), "a/b:c")

    @NO_DEADLINE
    @given(st.text())
    def test_idempotency_key(self, text: str) -> None:
        """Whatever an idempotency key is, its key in Redis is not taken for that of a topic."""
        key = NAMES.idempotency_key("t", text)
        self.assertFalse(fnmatchcase(key, NAMES.topic_pattern))
        self.assertEqual(len(key), len(NAMES.idempotency_key("t", "k")))

    def test_key_of_another_program(self) -> None:
        """A key that is like that of a topic, but has no valid topic in it, raises ValueError."""
        for name in ("", "t}:key:a", "a b", "\xff", "/a"):
            self.assertRaises(
                ValueError, NAMES.read_topic, NAMES.topic_keys(name)[0].encode("latin-1")
            )

    def test_channel(self) -> None:
        """The name of a channel contains the number of the database."""
        self.assertEqual(RedisNames(db=3).channel("a/b"), b"pushd:3:a/b")

    def test_prefix(self) -> None:
        """With another prefix, no name is one of the default's, and none matches its pattern."""
        other = RedisNames("app-1", db=3)
        self.assertEqual(other.server, "app-1:server")
        keys = other.topic_keys("a/b")
        self.assertEqual(keys, ("app-1:{a/b}:topic", "app-1:{a/b}:history"))
        self.assertEqual(other.channel("a/b"), b"app-1:3:a/b")
        self.assertEqual(other.read_topic(keys[0].encode()), "a/b")
        self.assertTrue(other.idempotency_key("t", "k").startswith("app-1:{t}:key:"))
        self.assertTrue(fnmatchcase(keys[0], other.topic_pattern))
        self.assertFalse(fnmatchcase(keys[0], NAMES.topic_pattern))

    def test_scripts(self) -> None:
        """A script has the SHA-1 by which Redis knows it."""
        self.assertEqual(PUBLISH.sha1, sha1(PUBLISH.source.encode()).hexdigest())
        self.assertEqual(len({script.sha1 for script in ALL}), 7)


class DataTests(SynchronousTestCase):
    """Publications and ids as bytes."""

    def test_message(self) -> None:
        """Text and bytes are decoded as they were encoded."""
        for data in ("", "ä b", b"", b"\xff 1"):
            kind, encoded = encode(data)
            publication = read_message("t", b"e:7 12 " + kind.encode() + encoded)
            self.assertEqual(
                (publication.topic, publication.data, publication.id, publication.sequence),
                ("t", data, Id("e", 7), 12),
            )

    def test_message_without_number(self) -> None:
        """A message of a node of an older version has no number."""
        publication = read_message("t", b"e:7 t8 x")
        self.assertEqual((publication.data, publication.sequence), ("8 x", 0))

    def test_kinds(self) -> None:
        """The event, the metadata, and whether it is JSON, are kept; JSON is always text."""
        datas: tuple[str | bytes, ...] = ("", "1\n", b"", b"\n\xff")
        for data, event, is_json, metadata in product(
            datas, (None, "paid"), (False, True), (None, '{"tags":{}}')
        ):
            kind, encoded = encode(data, event, is_json, metadata)
            expected = data, event, is_json and isinstance(data, str), metadata
            self.assertEqual(decode(kind.encode(), encoded), expected)

    def test_invalid_metadata(self) -> None:
        """Metadata that no node has written raise ValueError."""
        for data in (b"{\nx", b"e{}}\nx", b"message{}\nx", b'{"tags":1}\nx'):
            self.assertRaises(ValueError, decode, b"T", data)

    def test_invalid_event(self) -> None:
        """A name that would not fit into a line of an event stream raises ValueError."""
        for data in (b"", b"x", b" \nx", b"a\rb\nx", b"message\nx", b"\xff\nx"):
            self.assertRaises(ValueError, read_message, "t", b"e:1 2 T" + data)

    def test_malformed_message(self) -> None:
        """A message that another program may write to a channel raises ValueError."""
        for message in (b"", b"x", b"e:1", b"e:1 ", b"e:1 x", b"e tx", b"e:-1 tx", b"e:1 t\xff"):
            self.assertRaises(ValueError, read_message, "t", message)
        for message in (b"e:1 2", b"e:1 2 ", b"e:1 2x tx", b"e:1 2  tx", b"e:1 " + b"9" * 5000):
            self.assertRaises(ValueError, read_message, "t", message)

    def test_id(self) -> None:
        """Ids are decoded; a malformed one raises ValueError."""
        self.assertEqual(read_id(b"e-_:12"), Id("e-_", 12))
        self.assertRaises(ValueError, read_id, b"\xff:1")

    def test_number_as_data(self) -> None:
        """Data that is not a string raises ValueError."""
        with self.assertRaises(ValueError):
            read_replay("t", [b"e", b"2", 1, b"3", [[b"3-1", b"b", 7, b"1"]], b"1"])


class ReplayTests(SynchronousTestCase):
    """The history as the script returns it."""

    def test_replay(self) -> None:
        """The publications follow the id that was asked for."""
        entries = [[b"3-1000", b"t", b"a", b"0"], [b"4-1001", b"b", b"\xff", b"7"]]
        replay = read_replay("t", [b"e", b"2", 1, b"9", entries, b"8"])
        self.assertEqual(replay.sequence, 8)
        self.assertEqual((replay.id, replay.recovered, replay.last), (Id("e", 2), True, Id("e", 9)))
        self.assertEqual(
            [(str(one.id), one.data, one.sequence) for one in replay.publications],
            [("e:3", "a", 0), ("e:4", b"\xff", 7)],
        )

    def test_nothing(self) -> None:
        """A replay may be empty, whether it is recovered or not."""
        for recovered in (0, 1):
            replay = read_replay("t", [b"e", b"2", recovered, b"2", [], b"5"])
            self.assertEqual(replay, Replay(Id("e", 2), recovered == 1, (), Id("e", 2), 5))

    def test_invalid_epoch(self) -> None:
        """An epoch that would not fit into one line of an event stream raises ValueError."""
        for epoch in (b"e\r\ndata: x", b"e\n", b"", b"e" * 33, b"\xff", b"e:1"):
            self.assertRaises(ValueError, read_replay, "t", [epoch, b"2", 1, b"2", [], b"1"])
        for offset in (b"-1", b"1\n", b"9" * 5000, b""):
            self.assertRaises(ValueError, read_replay, "t", [b"e", offset, 1, b"2", [], b"1"])

    def test_damaged(self) -> None:
        """A history with a gap, made by another program, is not recovered."""
        lost = Replay(Id("e", 4), False, (), Id("e", 4), 9)
        gap = [[b"3-1", b"t", b"a", b"7"], [b"5-1", b"t", b"b", b"9"]]
        self.assertEqual(read_replay("t", [b"e", b"2", 1, b"4", gap, b"9"]), lost)
        self.assertEqual(read_replay("t", [b"e", b"2", 1, b"4", [], b"9"]), lost)
