"""Names of topics, ids, and the values that travel from publishers to subscribers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Publication, check_topic


class TopicNameTests(SynchronousTestCase):
    """What a topic may be called."""

    def test_good(self) -> None:
        """Letters, digits and five marks, in segments joined by slashes, up to 255."""
        for name in ("a", "A/b/9", "-_.:", "..", "a" * 255, "a/" * 127 + "a"):
            self.assertEqual(check_topic(name), name)

    def test_bad(self) -> None:
        """Everything else is refused, and what is allowed is said."""
        for name in (
            *("", "/", "/a", "a/", "a//b", "a b", "a\n", "\n", "é", "²", "a%2Fb", "a?", "*", "a\0"),
            "a" * 256,
        ):
            error = self.assertRaises(ValueError, check_topic, name)
            self.assertIn("255 letters, digits", str(error))


class IdTests(SynchronousTestCase):
    """Ids as they are written and read."""

    def test_round_trip(self) -> None:
        """What is written is read as the same."""
        for id in (Id("e", 0), Id("aZ0-_", 7), Id("x" * 32, 10**18 - 1)):
            self.assertEqual(Id.parse(str(id)), id)
        self.assertEqual(str(Id("e", 12)), "e:12")

    def test_bad(self) -> None:
        """What is no id is refused: an id has one form only."""
        for text in (
            *("", "e", "e:", ":1", "e:01", "e:-1", "e:+1", "e:1.0", "e: 1", "e:1 ", "e:1\n"),
            *("e.e:1", "é:1", "e:²", "e:१", "e:1:1", "x" * 33 + ":1", "e:" + "1" * 19),
        ):
            error = self.assertRaises(ValueError, Id.parse, text)
            self.assertIn("EPOCH:OFFSET", str(error))


class PublicationTests(SynchronousTestCase):
    """What is sent to everybody."""

    def test_identity(self) -> None:
        """A publication is itself and no other, so it can be looked up without being read."""
        one, other = (Publication("t", "x", Id("e", 1)) for _ in range(2))
        self.assertNotEqual(one, other)
        self.assertEqual(len({one, other}), 2)
