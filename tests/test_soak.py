"""What the soak test judges by: growth, ids without a gap, and what clients read."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.soak.command import main
from tests.soak.flatness import Allowance, find_slope, judge
from tests.soak.ledger import BlindPosition, Faults, Ledger, Limits, Position
from tests.soak.payload import make_delayed, make_payload, make_repeated, sent_at
from tests.soak.samples import (
    DESCRIPTORS,
    LASTING_KEYS,
    MEMORY,
    Samples,
    find_remains,
    format_trends,
)
from tests.soak.soak import find_percentile
from tests.soak.wire import AnswerReader, EventReader, FrameReader, HeadReader

PATIENCE = 10.0


class FlatnessTests(SynchronousTestCase):
    """Growth is a robust slope, and is compared with an allowance."""

    def noisy(self, slope: float) -> list[tuple[float, float]]:
        """Return 60 noisy samples that grow by ``slope`` a second, from a level of 1,000."""
        random = Random(7)
        return [(10.0 * n, 1000 + 10 * n * slope + random.gauss(0, 5)) for n in range(60)]

    def test_flat(self) -> None:
        """Noise around a level is flat."""
        trend = judge("a", "", self.noisy(0), Allowance(5))
        self.assertTrue(trend.flat, trend)

    def test_leak(self) -> None:
        """A leak of 1 % of the level within the time is found in noise of half a per cent."""
        trend = judge("a", "", self.noisy(0.017), Allowance(5))
        self.assertFalse(trend.flat, trend)
        self.assertApproximates(trend.growth, 10, 2.5)

    def test_share(self) -> None:
        """The larger of both allowances counts."""
        self.assertTrue(judge("a", "", self.noisy(0.017), Allowance(5, 0.02)).flat)

    def test_peaks(self) -> None:
        """Single peaks do not move the slope."""
        points = [(float(n), 1000.0 if n in (50, 55, 58) else 10.0) for n in range(60)]
        self.assertEqual(find_slope(points), 0)

    def test_shrinking(self) -> None:
        """What shrinks is flat."""
        self.assertTrue(judge("a", "", self.noisy(-1), Allowance(0)).flat)

    def test_long(self) -> None:
        """Of thousands of samples, evenly spread ones are compared."""
        self.assertAlmostEqual(find_slope([(float(n), 3.0 * n) for n in range(5000)]), 3)

    def test_few(self) -> None:
        """A few samples prove nothing."""
        error = self.assertRaises(ValueError, judge, "fds", "", [(0, 1), (1, 1)], Allowance(1))
        self.assertEqual(str(error), "fds: 2 samples are too few, 8 are needed")


class SamplesTests(SynchronousTestCase):
    """The resources of nodes, and what is left of them."""

    def test_judge(self) -> None:
        """Each resource of each owner is a row of the table, with its verdict."""
        samples = Samples()
        for n in range(10):
            samples.add("node 1", n, {MEMORY: 80 + 10 * n, DESCRIPTORS: 20})
        memory, descriptors = samples.judge()
        self.assertEqual((memory.flat, descriptors.flat), (False, True))
        lines = format_trends([memory, descriptors]).splitlines()
        self.assertRegex(lines[1], r"^node 1: memory +80\.0 +170\.0 +90\.0 +6\.2 +MiB +GROWS$")
        self.assertRegex(lines[2], r"^node 1: descriptors .* flat$")

    def test_remains(self) -> None:
        """What is left when all clients have gone is compared with what was there before."""
        before = {MEMORY: 80.0, DESCRIPTORS: 20.0, LASTING_KEYS: 1.0}
        self.assertEqual(
            find_remains("a", before, {MEMORY: 95, DESCRIPTORS: 22, LASTING_KEYS: 1}), []
        )
        after = {MEMORY: 95.0, DESCRIPTORS: 23.0, LASTING_KEYS: 2.0}
        lines = find_remains("a", before, after)
        self.assertEqual(len(lines), 2)
        self.assertIn("descriptors beside connections: 23 are left", lines[0])
        self.assertIn("keys that do not expire: 2 are left", lines[1])

    def test_percentile(self) -> None:
        """A percentile of counted values; of none there is no percentile."""
        counts = Counter({0.001: 98, 0.002: 1, 5.0: 1})
        self.assertEqual(find_percentile(counts, 0.5), 0.001)
        self.assertEqual(find_percentile(counts, 0.99), 0.002)
        self.assertEqual(find_percentile(counts, 1), 5)
        self.assertRaises(ValueError, find_percentile, Counter(), 0.5)


class LedgerTests(SynchronousTestCase):
    """Lost, repeated and changed publications are found, and so are untrue answers."""

    def setUp(self) -> None:
        """Make a ledger in which topic "a" has five publications, of which all have been told."""
        self.time = 1000.0
        self.faults = Faults()
        self.ledger = Ledger(Limits(100, 60.0, PATIENCE), lambda: self.time, self.faults)
        for n in range(1, 6):
            self.ledger.note("a", "e", n, f"{n} 1.0 x", "a publisher")
        self.position = Position(self.ledger, "a", "websocket 7")

    def get(self, *offsets: int, epoch: str = "e") -> None:
        """Deliver publications."""
        for n in offsets:
            self.position.got(f"{epoch}:{n}", f"{n} 1.0 x")

    def assert_fault(self, *words: str) -> None:
        """Assert that there is exactly one fault, and what it says."""
        self.assertEqual(self.faults.count, 1, self.faults.lines)
        for word in words:
            self.assertIn(word, self.faults.lines[0])

    def test_right(self) -> None:
        """A subscriber that gets everything in order, and is resumed, is no fault."""
        self.position.began("e:0", False, asked=False)
        self.get(1, 2, 3)
        self.position.began("e:3", True, asked=True)
        self.get(4, 5)
        self.assertEqual(self.faults.lines, [])
        self.assertEqual((self.position.id, self.position.resumed), ("e:5", 1))

    def test_gap(self) -> None:
        """A lost publication is a fault, and those after it are judged anew."""
        self.position.began("e:1", False, asked=False)
        self.get(2, 4, 5)
        self.assert_fault("websocket 7: a: got e:4 after a gap", "at e:2")

    def test_repeat(self) -> None:
        """So is one that comes twice."""
        self.position.began("e:1", False, asked=False)
        self.get(2, 2, 3)
        self.assert_fault("got e:2 twice")

    def test_changed(self) -> None:
        """So is one whose data is not what was published under its id."""
        self.position.began("e:1", False, asked=False)
        self.position.got("e:2", "3 1.0 x")
        self.assert_fault("a e:2 is '3 1.0 x', others disagree")

    def test_resumed_elsewhere(self) -> None:
        """So is a subscription that is resumed at another id than was asked for."""
        self.position.began("e:1", False, asked=False)
        self.position.began("e:2", True, asked=True)
        self.assert_fault("was resumed at e:2, not at e:1")

    def test_recovered_unasked(self) -> None:
        """A subscriber that has not asked cannot be recovered."""
        self.position.began("e:1", True, asked=False)
        self.assert_fault("had not asked")

    def test_told_without_reason(self) -> None:
        """So is recovered: false if the history reaches back far enough."""
        self.position.began("e:1", False, asked=False)
        self.time += 20
        self.position.began("e:5", False, asked=True)
        self.assert_fault("was told recovered: false without a reason, after e:1")
        self.assertEqual(self.position.told, 1)

    def test_told_with_reason(self) -> None:
        """It is none after a loss of the history, a long time, or many publications."""
        self.position.began("e:1", False, asked=False)
        self.time += 2
        self.ledger.wiped = self.time
        self.position.began("f:0", False, asked=True)
        self.time += 31
        self.position.began("f:0", False, asked=True)
        for n in range(1, 51):
            self.ledger.note("a", "f", n, f"{n} f", "a publisher")
        self.position.began("f:50", False, asked=True)
        self.assertEqual(self.faults.lines, [])
        self.assertEqual(self.position.told, 3)

    def test_lost_position(self) -> None:
        """After being told so without an id, the next publication says where it is."""
        self.position.began("e:1", False, asked=False)
        self.ledger.wiped = self.time
        self.position.lost()
        self.get(4, 5)
        self.assertEqual(self.faults.lines, [])

    def test_behind(self) -> None:
        """A subscriber must have what was published before the patience ended."""
        self.position.began("e:0", False, asked=False)
        self.get(1, 2, 3)
        self.time += PATIENCE - 1
        self.assertFalse(self.position.behind(0))
        self.time += 1
        self.assertTrue(self.position.behind(0))
        self.get(4, 5)
        self.ledger.note("a", "e", 6, "6 1.0 x", "a publisher")
        self.assertFalse(self.position.behind(0))
        self.time += PATIENCE
        self.assertTrue(self.position.behind(0))

    def test_unknown(self) -> None:
        """One without a position is behind if something was published while it was there."""
        self.time += PATIENCE
        self.assertTrue(self.position.behind(1000.0))
        self.assertFalse(self.position.behind(1001.0))

    def test_old_epoch(self) -> None:
        """One that was not told of a new epoch is behind; one in a newer epoch is not."""
        self.position.began("e:5", False, asked=False)
        self.ledger.note("a", "f", 1, "1 2.0 x", "a publisher")
        self.time += PATIENCE
        self.assertTrue(self.position.behind(0))
        for epoch, offset in (("f", 1), ("g", 0)):
            other = Position(self.ledger, "a", "sse 1")
            other.began(f"{epoch}:{offset}", False, asked=False)
            self.assertFalse(other.behind(0))

    def test_times(self) -> None:
        """Publications with the same data are counted once for each id."""
        for source in ("a publisher", "sse 1"):
            for n in (6, 7):
                self.ledger.note("a", "e", n, make_repeated(3), source)
        self.assertEqual(self.ledger.times("a", make_repeated(3)), 2)
        self.assertIsNone(self.ledger.find("a", make_repeated(3)))

    def test_few_lines(self) -> None:
        """Of many faults, the first are kept, and all are counted."""
        for n in range(1000):
            self.faults.add(f"{n}")
        self.assertEqual((len(self.faults.lines), self.faults.count), (50, 1000))


class BlindPositionTests(SynchronousTestCase):
    """A subscriber without ids is found out as well."""

    def setUp(self) -> None:
        """Make a ledger."""
        self.time = 1000.0
        self.faults = Faults()
        self.ledger = Ledger(Limits(100, 60.0, PATIENCE), lambda: self.time, self.faults)
        self.position = BlindPosition(self.ledger, "a", "websocket 7")
        self.position.connect(asked=False)

    def publish(self, *offsets: int, epoch: str = "e") -> None:
        """Publish."""
        for n in offsets:
            self.ledger.note("a", epoch, n, f"{n} {epoch} x", "a publisher")

    def get(self, *offsets: int, epoch: str = "e") -> None:
        """Deliver data."""
        for n in offsets:
            self.position.got_data(f"{n} {epoch} x")

    def test_right(self) -> None:
        """Data that arrives before its id is known is counted once it is."""
        self.publish(1, 2)
        self.get(3, 4)
        self.assertIsNone(self.position.id)
        self.publish(3, 4)
        self.get(5)
        self.publish(5)
        self.assertEqual((self.position.id, self.faults.lines), ("e:5", []))
        self.time += PATIENCE
        self.assertFalse(self.position.behind(0))

    def test_behind(self) -> None:
        """Until it is known where it is, it is behind if something came while it was there."""
        self.publish(1)
        self.get(1)
        self.position.connect(asked=True)
        self.publish(1, epoch="f")
        self.time += PATIENCE
        self.assertFalse(self.position.behind(1001.0))
        self.assertTrue(self.position.behind(1000.0))

    def test_repeated_data(self) -> None:
        """Data that is published again and again is counted from what follows it."""
        self.ledger.note("a", "e", 1, make_repeated(9), "sse 1")
        self.position.got_data(make_repeated(9))
        self.publish(2)
        self.get(2)
        self.assertEqual((self.position.id, self.faults.lines), ("e:2", []))

    def test_gap(self) -> None:
        """A lost publication disagrees with what others say of its id."""
        self.publish(1, 2, 3)
        self.get(1, 3)
        self.assertEqual(self.faults.count, 1)
        self.assertIn("websocket 7: a e:2 is '3 e x'", self.faults.lines[0])

    def test_repeat(self) -> None:
        """So does one that comes twice."""
        self.publish(1, 2, 3)
        self.get(1, 2, 2)
        self.assertEqual(self.faults.count, 1)

    def test_resumed(self) -> None:
        """A resumed subscription must go on with the next publication."""
        self.publish(1, 2, 3)
        self.get(1)
        self.position.connect(asked=True)
        self.get(2)
        self.assertEqual((self.position.resumed, self.faults.lines), (1, []))
        self.position.connect(asked=True)
        self.publish(4)
        self.get(4)
        self.assertEqual(self.faults.count, 1)
        self.assertIn("was resumed at e:4, not at", self.faults.lines[0])

    def test_new_epoch(self) -> None:
        """After the loss of the history it may go on elsewhere."""
        self.publish(1, 2)
        self.get(1)
        self.ledger.wiped = self.time
        self.position.connect(asked=True)
        self.publish(1, 2, epoch="f")
        self.get(1, 2, epoch="f")
        self.assertEqual((self.position.id, self.position.told), ("f:2", 1))
        self.assertEqual(self.faults.lines, [])


class WireTests(SynchronousTestCase):
    """Answers, frames and events are read from any pieces."""

    def pieces(self, data: bytes) -> list[bytes]:
        """Cut data into pieces of three bytes."""
        return [data[n : n + 3] for n in range(0, len(data), 3)]

    def test_head(self) -> None:
        """What follows a head is handed over."""
        reader = HeadReader()
        self.assertIsNone(reader.feed(b"HTTP/1.1 101 Switching\r\nA: b"))
        found = reader.feed(b"\r\n\r\nrest")
        self.assertEqual(found, (101, b"HTTP/1.1 101 Switching\r\nA: b", b"rest"))

    def test_answers(self) -> None:
        """Answers are cut by their length."""
        reader = AnswerReader()
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 503 No\r\n\r\n"
        found = [answer for piece in self.pieces(data) for answer in reader.feed(piece)]
        self.assertEqual(found, [(200, b"hi"), (503, b"")])

    def test_frames(self) -> None:
        """Frames of each length."""
        reader, payloads = FrameReader(), [b"", b"x" * 125, b"y" * 126, b"z" * 70000]
        heads = [
            b"\x81\x00",
            b"\x81\x7d",
            b"\x82\x7e\x00\x7e",
            b"\x82\x7f" + (70000).to_bytes(8, "big"),
        ]
        data = b"".join(head + payload for head, payload in zip(heads, payloads, strict=True))
        found = [frame for piece in self.pieces(data) for frame in reader.feed(piece)]
        self.assertEqual(found, list(zip((1, 1, 2, 2), payloads, strict=True)))

    def test_events(self) -> None:
        """Events are read across chunks; lines of data are joined."""
        reader, found = EventReader(), []
        text = b"event: a\nid: 1\ndata: x\ndata: y\n\n: keep-alive\n\ndata: z\n\n"
        data = b"".join(
            b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (text[:20], text[20:40], text[40:])
        )
        for piece in self.pieces(data):
            found += list(reader.feed(piece))
        self.assertEqual(found[0], {"event": "a", "id": "1", "data": "x\ny"})
        self.assertEqual(found[2], {"data": "z"})
        self.assertEqual((len(found), reader.ended), (3, False))
        self.assertEqual((list(reader.feed(b"0\r\n\r\n")), reader.ended), ([], True))

    def test_payload(self) -> None:
        """A publication tells when it was sent, unless it was scheduled."""
        self.assertEqual(sent_at(make_payload(7, 12.5)), 12.5)
        self.assertEqual([len(make_payload(7, 12.5)), len(make_payload(7, 1, 5000))], [128, 5000])
        self.assertIsNone(sent_at(make_delayed(7)))
        self.assertIsNone(sent_at(make_repeated(7)))
        self.assertEqual(json.loads(json.dumps(make_repeated(7))), make_repeated(7))


class CommandTests(SynchronousTestCase):
    """Mistakes on the command line."""

    def test_mistakes(self) -> None:
        """A number that makes no sense is refused with the name of its option."""
        for arguments in (["--minutes", "0"], ["--clients", "0"], ["--churn", "-1"]):
            error = self.assertRaises(SystemExit, main, arguments)
            self.assertEqual(error.code, 2)

    def test_no_redis(self) -> None:
        """Without Redis, one line says what to install."""
        said: list[str] = []
        self.patch(shutil, "which", lambda name: None)
        self.assertEqual(main([], said.append), 1)
        self.assertEqual(
            said, ["soak: redis-server is not installed: apt-get install redis-server"]
        )
