"""Publications that go out together."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.fanout import Batch
from pushd.topics.publication import Id, Publication


def publications(first: int, *data: str) -> list[Publication]:
    """Make some that follow one another."""
    return [Publication("t", one, Id("e", first + place)) for place, one in enumerate(data)]


class BatchTests(SynchronousTestCase):
    """What is made once for all."""

    def setUp(self) -> None:
        """Make a batch of three."""
        self.batch = Batch(publications(5, "a", "b", "c"))

    def test_place(self) -> None:
        """It knows where it stands in its topic."""
        batch = self.batch
        self.assertEqual((batch.topic, batch.epoch, batch.first), ("t", "e", 5))
        self.assertEqual((batch.last, batch.count), (Id("e", 7), 3))
        self.assertEqual([one.data for one in batch], ["a", "b", "c"])

    def test_render(self) -> None:
        """Each form is made once, whoever asks for it, and of all publications."""
        made: list[object] = []

        def form(publication: Publication) -> bytes:
            made.append(publication.data)
            return f"<{publication.data!s}>".encode()

        def another(publication: Publication) -> bytes:
            return b"."

        self.assertEqual(self.batch.render(form), b"<a><b><c>")
        self.assertIs(self.batch.render(form), self.batch.render(form))
        self.assertEqual(made, ["a", "b", "c"])
        self.assertEqual(self.batch.render(another), b"...")

    def test_since(self) -> None:
        """What is behind an offset is a batch of its own."""
        self.assertIs(self.batch.since(4), self.batch)
        self.assertIs(self.batch.since(0), self.batch)
        rest = self.batch.since(5)
        self.assertEqual(([one.data for one in rest], rest.first), (["b", "c"], 6))
        self.assertEqual([one.data for one in self.batch.since(6)], ["c"])
