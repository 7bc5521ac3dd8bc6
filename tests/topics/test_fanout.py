"""Batches, and groups of subscribers that are written to directly."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Traffic
from pushd.topics import fanout
from pushd.topics.fanout import Batch, BatchCache, DirectWrite, FanOutGroup
from pushd.topics.publication import Id, Publication


def publications(first: int, *data: str | bytes) -> list[Publication]:
    """Make consecutive publications."""
    return [Publication("t", one, Id("e", first + place)) for place, one in enumerate(data)]


def plain(publication: Publication) -> bytes:
    """Render a publication as its data."""
    assert isinstance(publication.data, bytes)
    return publication.data


class BatchCacheTests(SynchronousTestCase):
    """Batches that subscribers who resume have in common."""

    def setUp(self) -> None:
        """Make an empty cache."""
        self.clock = Clock()
        self.cache = BatchCache(self.clock)

    def use(self, *read: Publication) -> tuple[Batch, ...]:
        """Get the batches of some publications, render and keep them."""
        batches = self.cache.get(read)
        for batch in batches:
            batch.render(plain)
        self.cache.keep(read, batches)
        return batches

    def test_shared(self) -> None:
        """What is read again has the same batches, under another topic it has not."""
        one, again = publications(5, b"x" * 5000) + publications(5, b"x" * 5000)
        [batch] = self.use(one)
        self.assertIs(self.use(again)[0], batch)
        self.assertIsNot(self.cache.get([Publication("u", one.data, one.id)])[0], batch)
        self.assertEqual(self.cache.bytes, batch.memory)
        self.assertGreater(batch.memory, 10_000)

    def test_several(self) -> None:
        """Publications that are read together are one batch; fewer of them are another."""
        many = publications(5, *[b"x" * 100] * 50)
        [batch] = self.use(*many)
        self.assertEqual((batch.count, batch.first, batch.last), (50, 5, Id("e", 54)))
        self.assertIs(self.use(*many)[0], batch)
        self.assertEqual([one.count for one in self.use(*many[1:])], [49])
        self.assertEqual([one.count for one in self.use(*many[:-1])], [49])

    def test_pieces(self) -> None:
        """A batch has 16 KiB at most, or a single publication."""
        sizes = [8_000, 8_000, 8_000, 100_000, 1, 1]
        batches = self.use(*publications(5, *map(bytes, sizes)))
        self.assertEqual([one.count for one in batches], [2, 1, 1, 2])
        self.assertEqual([one.first for one in batches], [5, 7, 8, 9])
        self.assertEqual(self.cache.bytes, sum(one.memory for one in batches))

    def test_short(self) -> None:
        """What is short is not kept."""
        self.use(publications(5, b"x" * 200)[0])
        self.assertEqual((self.cache.bytes, self.clock.getDelayedCalls()), (0, []))

    def test_limit(self) -> None:
        """The batches used longest ago make room for others; one beyond the limit is not kept."""
        many = publications(1, *[bytes(1 << 20)] * 20)
        batches = [self.use(one)[0] for one in many[:10]]
        self.assertIs(self.use(many[0])[0], batches[0])
        for one in many[10:]:
            self.use(one)
        self.assertLessEqual(self.cache.bytes, 24 << 20)
        self.assertIs(self.cache.get(many[:1])[0], batches[0])
        self.assertIsNot(self.cache.get(many[1:2])[0], batches[1])
        self.use(Publication("t", bytes(13 << 20), Id("e", 99)))
        self.assertIs(self.cache.get(many[:1])[0], batches[0])

    def test_expires(self) -> None:
        """Nothing is kept five seconds after the last use."""
        self.use(publications(5, b"x" * 5000)[0])
        self.clock.advance(4)
        self.use(publications(6, b"x" * 5000)[0])
        self.clock.advance(4)
        self.assertGreater(self.cache.bytes, 20_000)
        self.clock.advance(1)
        self.assertEqual((self.cache.bytes, self.clock.getDelayedCalls()), (0, []))


class BatchTests(SynchronousTestCase):
    """Publications that are delivered together."""

    def setUp(self) -> None:
        """Make a batch of three publications."""
        self.batch = Batch(publications(5, "a", "b", "c"))

    def test_position(self) -> None:
        """A batch has the topic, epoch, first offset, last id and number of its publications."""
        batch = self.batch
        self.assertEqual((batch.topic, batch.epoch, batch.first), ("t", "e", 5))
        self.assertEqual((batch.last, batch.count), (Id("e", 7), 3))
        self.assertEqual([one.data for one in batch], ["a", "b", "c"])

    def test_render(self) -> None:
        """A batch is rendered once in each form, no matter how often it is asked for."""
        rendered: list[object] = []

        def form(publication: Publication) -> bytes:
            rendered.append(publication.data)
            return f"<{publication.data!s}>".encode()

        def another(publication: Publication) -> bytes:
            return b"."

        self.assertEqual(self.batch.render(form), b"<a><b><c>")
        self.assertIs(self.batch.render(form), self.batch.render(form))
        self.assertEqual(rendered, ["a", "b", "c"])
        self.assertEqual(self.batch.render(another), b"...")

    def test_since(self) -> None:
        """The publications after an offset are a batch of their own, or the batch itself if all."""
        self.assertIs(self.batch.since(4), self.batch)
        self.assertIs(self.batch.since(0), self.batch)
        rest = self.batch.since(5)
        self.assertEqual(([one.data for one in rest], rest.first), (["b", "c"], 6))
        self.assertEqual([one.data for one in self.batch.since(6)], ["c"])


class FakeMember:
    """A subscriber whose socket takes a limited number of bytes at a time.

    :param takes: how many bytes one call of ``send`` takes.
    """

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.error: OSError | None = None
        self.received: list[bytes] = []
        self.traffic = Traffic()
        self.direct = DirectWrite(plain, self.send, self.write_rest, self.traffic)

    def send(self, data: bytes) -> int:
        """Take some of the data, or fail."""
        if self.error is not None:
            raise self.error
        self.received.append(data[: self.takes])
        return len(self.received[-1])

    def write_rest(self, data: bytes, sent: int) -> None:
        """Take the rest."""
        self.received.append(data[sent:])

    @property
    def counted(self) -> tuple[int, int]:
        """The messages and bytes that have been counted on its connection."""
        return self.traffic.messages_out, self.traffic.bytes_out


class FanOutGroupTests(SynchronousTestCase):
    """Members join, are written to, and leave."""

    def setUp(self) -> None:
        """Make a group without members."""
        self.ungrouped: dict[FakeMember, None] = {}
        self.group: FanOutGroup[FakeMember] = FanOutGroup(plain, Id("e", 4), self.ungrouped)

    def add(self, *takes: int) -> list[FakeMember]:
        """Add members whose sockets take the given numbers of bytes at a time."""
        members = [FakeMember(one) for one in takes]
        self.ungrouped.update(dict.fromkeys(members))
        for member in members:
            self.group.add(member, member.direct)
        return members

    def remove(self, member: FakeMember) -> None:
        """Remove a member."""
        self.group.remove(member, member.direct)

    def write(self, *data: bytes) -> list[tuple[FakeMember, int]]:
        """Write what follows; return whose socket did not take all, and how much it took."""
        batch = Batch(publications(self.group.last.offset + 1, *data))
        self.group.begin(batch)
        short, reached = self.group.write(batch, lambda: False)
        self.assertEqual((reached, self.group.complete), (len(self.group), True))
        return short

    def test_write(self) -> None:
        """Each member gets the whole batch in one call, and the same bytes object."""
        members = self.add(100, 100)
        self.assertEqual((len(self.group), list(self.group)), (2, members))
        self.assertEqual(self.write(b"one", b"two"), [])
        self.assertEqual([member.received for member in members], [[b"onetwo"]] * 2)
        self.assertIs(members[0].received[0], members[1].received[0])
        self.assertEqual(self.group.last, Id("e", 6))

    def test_short_write(self) -> None:
        """A member whose socket takes only a part is returned with its size; the others get all."""
        first, second, third = self.add(100, 2, 100)
        first.error = BlockingIOError()
        self.assertEqual(self.write(b"abc"), [(first, 0), (second, 2)])
        self.assertEqual([one.received for one in (first, second, third)], [[], [b"ab"], [b"abc"]])

    def test_broken_connection(self) -> None:
        """A member whose connection is broken is returned: nothing was taken."""
        [member] = self.add(100)
        member.error = BrokenPipeError()
        self.assertEqual(self.write(b"abc"), [(member, 0)])

    def test_late(self) -> None:
        """Once it is late no more members are written to, but always some; then it goes on."""
        self.patch(fanout, "_BYTES_PER_LOOK", 2 * (fanout._CALL_BYTES + 3))
        members = self.add(*[100] * 5)
        self.write(b"a")
        batch = Batch(publications(6, b"bcd"))
        self.group.begin(batch)
        for reached, complete in ((2, False), (2, False), (1, True)):
            self.assertEqual(self.group.write(batch, lambda: True), ([], reached))
            self.assertEqual(self.group.complete, complete)
            self.assertEqual((len(self.group), set(self.group)), (5, set(members)))
        self.assertEqual([one.received for one in members], [[b"a", b"bcd"]] * 5)
        self.write(b"e")
        for member in members:
            self.remove(member)
        self.assertEqual([one.counted for one in members], [(3, 5)] * 5)

    def test_leave_unreached(self) -> None:
        """A member that leaves between two steps is where it was, and what it got is counted."""
        self.patch(fanout, "_BYTES_PER_LOOK", 0)
        first, second, third = members = self.add(100, 100, 100)
        self.write(b"a")
        batch = Batch(publications(6, b"bc"))
        self.group.begin(batch)
        self.group.write(batch, lambda: True)
        positions = [self.group.position(one.direct) for one in members]
        self.assertEqual(positions, [Id("e", 6), Id("e", 5), Id("e", 5)])
        for member in members:
            self.group.flush_counters(member.direct)
        self.remove(second)
        self.remove(first)
        self.assertFalse(self.group.complete)
        self.remove(third)
        self.assertTrue(self.group.complete)
        self.assertEqual([one.counted for one in members], [(2, 3), (1, 1), (1, 1)])

    def test_much_not_taken(self) -> None:
        """Once much was not taken no more members are written to: that is buffered first."""
        self.patch(fanout, "_BYTES_PER_LOOK", 0)
        self.patch(fanout, "_MAX_SHORT", 3)
        members = self.add(3, 0, 1, 0)
        batch = Batch(publications(5, b"abc"))
        self.group.begin(batch)
        short, reached = self.group.write(batch, lambda: False)
        self.assertEqual((short, reached), ([(members[1], 0), (members[2], 1)], 3))
        self.assertEqual(self.group.write(batch, lambda: False), ([(members[3], 0)], 1))

    def test_remove(self) -> None:
        """A removed member is written to no more, and is put back among the ungrouped."""
        first, second = self.add(100, 100)
        self.assertEqual(self.ungrouped, {})
        self.remove(first)
        self.write(b"abc")
        self.assertEqual((first.received, second.received), ([], [b"abc"]))
        self.remove(second)
        self.assertEqual((len(self.group), list(self.ungrouped)), (0, [first, second]))

    def test_counters(self) -> None:
        """What was written to a member is counted when it leaves or its counters are flushed."""
        [first] = self.add(100)
        self.write(b"abc")
        [second] = self.add(100)
        self.write(b"de", b"f")
        self.assertEqual((first.counted, second.counted), ((0, 0), (0, 0)))
        for _ in range(2):
            for member in (first, second):
                self.group.flush_counters(member.direct)
            self.assertEqual((first.counted, second.counted), ((3, 6), (2, 3)))
        self.write(b"g")
        self.remove(first)
        self.write(b"h")
        self.remove(second)
        self.assertEqual((first.counted, second.counted), ((4, 7), (4, 5)))
