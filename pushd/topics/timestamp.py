"""Timestamps: the time of day in the form of RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, datetime

# A date, a time and the offset of its zone (RFC 3339 §5.6); fromisoformat() takes other forms, too.
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def parse_timestamp(text: str) -> float:
    """Return the seconds since 1970 of a timestamp. Raises ValueError if it is not one."""
    if _TIMESTAMP.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except ValueError:
            pass  # Such as the 30th of February.
    raise ValueError(
        "must be a time of RFC 3339 such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00 "
        "(in a URL, + is written %2B)"
    )


def seconds_of(at: datetime) -> float:
    """Return the seconds since 1970 of a time. Raises ValueError if it has no time zone."""
    if at.tzinfo is None:
        raise ValueError(f"at must have a time zone, such as datetime.now(UTC) has; got {at!r}")
    return at.timestamp()


def format_timestamp(seconds: float) -> str:
    """Return the timestamp of a number of seconds since 1970, in UTC, with milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
