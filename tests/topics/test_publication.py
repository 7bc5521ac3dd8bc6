"""Names of topics, ids, and publications."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.publication import Id, Publication, check_event, check_metadata, check_topic


class TopicNameTests(SynchronousTestCase):
    """Names of topics."""

    def test_valid(self) -> None:
        """A name has up to 255 letters, digits and marks, in segments separated by slashes."""
        for name in (
            "a",
            "A/b/9",
            "-_.:",
            "...",
            ".a",
            "a..",
            "a/.b./c",
            "a" * 255,
            "a/" * 127 + "a",
        ):
            self.assertEqual(check_topic(name), name)

    def test_invalid(self) -> None:
        """An invalid name raises ValueError with the rule."""
        for name in (
            *("", "/", "/a", "a/", "a//b", "a b", "a\n", "\n", "é", "²", "a%2Fb", "a?", "*", "a\0"),
            "a" * 256,
        ):
            error = self.assertRaises(ValueError, check_topic, name)
            self.assertIn("255 letters, digits", str(error))

    def test_dot_segments(self) -> None:
        """A segment that browsers and proxies resolve is refused."""
        for name in (".", "..", "./a", "../a", "a/.", "a/..", "a/./b", "a/../b", "a/b/.."):
            error = self.assertRaises(ValueError, check_topic, name)
            self.assertIn("must not have . or .. as a segment", str(error))


class MetadataTests(SynchronousTestCase):
    """What SDKs of Centrifugo get beside the data."""

    def test_valid(self) -> None:
        """They may have the client that published, and tags."""
        for text in (
            "{}",
            '{"info": {"user": "", "client": "c", "conn_info": [1, null]}}',
            '{"tags": {"a": "\\u00e9"}}',
        ):
            self.assertEqual(check_metadata(text), text)

    def test_invalid(self) -> None:
        """All else raises ValueError."""
        for text in (
            *("", "{", "1", "[]", '{"a":"é"}', "{\n}", '{"info": null}', '{"info": {}}'),
            *('{"info": {"user": "a", "client": 1}}', '{"tags": []}', '{"tags": {"a": 1}}'),
            *('{"tags": {"a": "\\ud800"}}', '{"x": NaN}'),
        ):
            self.assertRaises(ValueError, check_metadata, text)


class EventNameTests(SynchronousTestCase):
    """Names of events."""

    def test_valid(self) -> None:
        """A name has up to 64 letters, digits and marks."""
        for name in ("paid", "order.paid", "A:b-c_9", "e" * 64):
            self.assertEqual(check_event(name), name)

    def test_invalid(self) -> None:
        """Another one raises ValueError with the rule, and so does one that pushd uses itself."""
        for name in ("", "a b", "a\n", "é", "e" * 65):
            error = self.assertRaises(ValueError, check_event, name)
            self.assertIn("64 letters, digits", str(error))
        for name in ("message", "subscribed", "open", "error"):
            error = self.assertRaises(ValueError, check_event, name)
            self.assertIn("uses itself", str(error))


class IdTests(SynchronousTestCase):
    """The text form of ids."""

    def test_round_trip(self) -> None:
        """An id is the same after it was written and parsed."""
        for id in (Id("e", 0), Id("aZ0-_", 7), Id("x" * 32, 10**18 - 1)):
            self.assertEqual(Id.parse(str(id)), id)
        self.assertEqual(str(Id("e", 12)), "e:12")

    def test_invalid(self) -> None:
        """A malformed id raises ValueError; each id has exactly one text form."""
        for text in (
            *("", "e", "e:", ":1", "e:01", "e:-1", "e:+1", "e:1.0", "e: 1", "e:1 ", "e:1\n"),
            *("e.e:1", "é:1", "e:²", "e:१", "e:1:1", "x" * 33 + ":1", "e:" + "1" * 19),
        ):
            error = self.assertRaises(ValueError, Id.parse, text)
            self.assertIn("EPOCH:OFFSET", str(error))


class PublicationTests(SynchronousTestCase):
    """Publications as values."""

    def test_identity(self) -> None:
        """Publications compare by identity, so a lookup does not read their data."""
        one, other = (Publication("t", "x", Id("e", 1)) for _ in range(2))
        self.assertNotEqual(one, other)
        self.assertEqual(len({one, other}), 2)
