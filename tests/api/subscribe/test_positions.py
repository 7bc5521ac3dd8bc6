"""Positions at which clients resume topics."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from pushd.api.subscribe.positions import locate, read_position
from pushd.errors import BadRequest, Unavailable
from pushd.topics.cursor import Cursor
from pushd.topics.publication import Id


class ReadTests(SynchronousTestCase):
    """What a client sends."""

    def test_read(self) -> None:
        """An id or a cursor is read; anything else is refused with the rule."""
        self.assertEqual(read_position("e:1"), Id("e", 1))
        self.assertEqual(read_position("g.7"), Cursor("g", 7))
        error = self.assertRaises(ValueError, read_position, "7")
        self.assertIn("an id or a cursor", str(error))


class LocateTests(SynchronousTestCase):
    """Positions become ids."""

    def test_unavailable(self) -> None:
        """While the broker cannot be reached, clients are told to try again."""

        class Source:
            def locate(self, topics: object, cursor: object) -> Deferred[list[Id | None]]:
                return fail(Unavailable("no"))

        source: Any = Source()
        located = Deferred.fromCoroutine(locate(source, {"a": Cursor("g", 1)}))
        error = self.failureResultOf(located, BadRequest).value
        assert isinstance(error, BadRequest)
        self.assertEqual((error.status, error.headers), (503, {"Retry-After": "5"}))
