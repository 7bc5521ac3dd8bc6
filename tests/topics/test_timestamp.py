"""Times in the form of RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from twisted.trial.unittest import SynchronousTestCase

from pushd.topics.timestamp import format_timestamp, parse_timestamp, seconds_of


class TimestampTests(SynchronousTestCase):
    """Parsing and formatting."""

    def test_parse(self) -> None:
        """All forms of RFC 3339 §5.6 and its examples (§5.8) are read."""
        for text, expected in [
            ("1970-01-01T00:00:00Z", 0),
            ("1985-04-12T23:20:50.52Z", 482196050.52),
            ("1996-12-19T16:39:57-08:00", 851042397),
            ("1937-01-01T12:00:27.87+00:20", -1041337172.13),
            ("2026-12-24t18:00:00.123456789z", 1798135200.123456),
            ("2026-12-24 19:00:00+01:00", 1798135200),
        ]:
            self.assertAlmostEqual(parse_timestamp(text), expected, 5, text)

    def test_not_one(self) -> None:
        """Anything else is refused, with an example, and what URLs need."""
        for text in [
            "",
            "tomorrow",
            "1798135200",
            "2026-12-24",
            "2026-12-24T18:00:00",
            "2026-12-24T18:00Z",
            "20261224T180000Z",
            "2026-W52-4T18:00:00Z",
            "2026-02-30T18:00:00Z",
            "2026-12-24T25:00:00Z",
            "2026-12-24T19:00:00 01:00",
            "2026-12-24T19:00:00+25:00",
            "\uff12026-12-24T18:00:00Z",
        ]:
            error = self.assertRaises(ValueError, parse_timestamp, text)
            self.assertIn("2026-12-24T18:00:00Z", str(error))
            self.assertIn("%2B", str(error))

    def test_format(self) -> None:
        """A time is written in UTC, with milliseconds, and read again."""
        self.assertEqual(format_timestamp(1798135200.1239), "2026-12-24T18:00:00.123Z")
        self.assertEqual(parse_timestamp(format_timestamp(1798135200.5)), 1798135200.5)

    def test_seconds(self) -> None:
        """A datetime needs a time zone."""
        zone = timezone(timedelta(hours=1))
        self.assertEqual(seconds_of(datetime(2026, 12, 24, 19, tzinfo=zone)), 1798135200)
        self.assertEqual(seconds_of(datetime(2026, 12, 24, 18, tzinfo=UTC)), 1798135200)
        self.assertIn(
            "time zone", str(self.assertRaises(ValueError, seconds_of, datetime(2026, 12, 24)))
        )
