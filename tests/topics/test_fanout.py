"""Many who are told by one call each."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Traffic
from pushd.topics.fanout import Batch, DirectWrite, FanOutGroup
from pushd.topics.publication import Id, Publication


def form(publication: Publication) -> bytes:
    """The data as it is."""
    assert isinstance(publication.data, bytes)
    return publication.data


class Singer:
    """A member whose socket takes so many bytes at a time."""

    def __init__(self, takes: int = 100) -> None:
        self.takes = takes
        self.error: OSError | None = None
        self.got: list[bytes] = []
        self.part = DirectWrite(form, self.send, self.got.append, Traffic())

    def send(self, data: bytes) -> int:
        """Take some."""
        if self.error is not None:
            raise self.error
        self.got.append(data[: self.takes])
        return len(self.got[-1])

    @property
    def counted(self) -> tuple[int, int]:
        """The messages and bytes that have been counted for it."""
        traffic = self.part.traffic
        return traffic.messages_out, traffic.bytes_out


class UnisonTests(SynchronousTestCase):
    """Members that come, are told, and go."""

    def setUp(self) -> None:
        """Nobody is there yet."""
        self.unison: FanOutGroup[Singer] = FanOutGroup(form, Id("e", 4))

    def join(self, *takes: int) -> list[Singer]:
        """Let some in."""
        singers = [Singer(some) for some in takes]
        for singer in singers:
            self.unison.join(singer)
        return singers

    def tell(self, *texts: bytes) -> list[tuple[Singer, bytes]]:
        """Tell what comes next."""
        first = self.unison.last.offset + 1
        return self.unison.tell(
            Batch([Publication("t", text, Id("e", first + n)) for n, text in enumerate(texts)])
        )

    def test_tell(self) -> None:
        """All get all in one piece, the same for all of them."""
        singers = self.join(100, 100)
        self.assertEqual((len(self.unison), list(self.unison)), (2, singers))
        self.assertEqual(self.tell(b"one", b"two"), [])
        self.assertEqual([singer.got for singer in singers], [[b"onetwo"]] * 2)
        self.assertIs(singers[0].got[0], singers[1].got[0])
        self.assertEqual(self.unison.last, Id("e", 6))

    def test_short(self) -> None:
        """Whose socket does not take it all is named with the rest, and the others have it all."""
        first, second, third = self.join(100, 2, 100)
        first.error = BlockingIOError()
        self.assertEqual(self.tell(b"abc"), [(first, b"abc"), (second, b"c")])
        self.assertEqual([one.got for one in (first, second, third)], [[], [b"ab"], [b"abc"]])

    def test_broken(self) -> None:
        """So is one whose connection is gone."""
        [singer] = self.join(100)
        singer.error = BrokenPipeError()
        self.assertEqual(self.tell(b"abc"), [(singer, b"abc")])

    def test_leave(self) -> None:
        """Who has left is told nothing more."""
        first, second = self.join(100, 100)
        self.unison.leave(first)
        self.tell(b"abc")
        self.assertEqual((first.got, second.got), ([], [b"abc"]))
        self.unison.leave(second)
        self.assertEqual(len(self.unison), 0)

    def test_count(self) -> None:
        """Each has counted what was said while it was there, once it leaves or all is settled."""
        [first] = self.join(100)
        self.tell(b"abc")
        [second] = self.join(100)
        self.tell(b"de", b"f")
        self.assertEqual((first.counted, second.counted), ((0, 0), (0, 0)))
        for _ in range(2):
            self.unison.settle()
            self.assertEqual((first.counted, second.counted), ((3, 6), (2, 3)))
        self.tell(b"g")
        self.unison.leave(first)
        self.tell(b"h")
        self.unison.leave(second)
        self.assertEqual((first.counted, second.counted), ((4, 7), (4, 5)))
