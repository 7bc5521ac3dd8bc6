"""The values that travel through pushd."""

from __future__ import annotations

import re
from dataclasses import dataclass

# RFC 6455 §7.4.1 and the IANA registry: what an endpoint may put on the wire.
# 1004, 1005, 1006 and 1015 are reserved for reports on one's own side.
_REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})

# A control frame holds 125 bytes, two of them the code (RFC 6455 §5.5).
_MAX_REASON = 123


# Segments of letters, digits and five marks, joined by slashes.
_TOPIC = re.compile(r"[A-Za-z0-9._:-]+(?:/[A-Za-z0-9._:-]+)*")
_MAX_TOPIC = 255

_ID = re.compile(r"(?P<epoch>[A-Za-z0-9_-]{1,32}):(?P<offset>0|[1-9][0-9]{0,17})")


def check_topic(name: str) -> str:
    """Give the name back if a topic can have it; raises ValueError that says what one can have."""
    if len(name) > _MAX_TOPIC or not _TOPIC.fullmatch(name):
        raise ValueError(
            f"a topic has 1 to {_MAX_TOPIC} letters, digits and -_.: in segments joined by /"
        )
    return name


@dataclass(frozen=True, slots=True)
class Id:
    """Where a publication stands in its topic.

    The epoch is random, and new whenever the topic's history is; the offset counts 1, 2, 3…
    without a gap. Offset 0 stands before the first publication.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Id:
        """Read an id as it is written; raises ValueError for what is none."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError("an id is EPOCH:OFFSET, as it came with a publication")
        return cls(match["epoch"], int(match["offset"]))


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """One piece of data sent to everybody who listens to a topic."""

    topic: str
    data: str | bytes
    id: Id


@dataclass(frozen=True, slots=True)
class Replay:
    """What a topic's history has for one who was here before, or for one who is new."""

    #: Where the publications below begin: the next one follows this id.
    id: Id
    #: Whether nothing was lost since the id that was asked for.
    recovered: bool
    publications: tuple[Publication, ...]
    #: The last id that was given to a publication.
    last: Id


@dataclass(frozen=True, slots=True)
class Closing:
    """How a WebSocket ends: the code and the reason of its Close frame (RFC 6455 §7.4).

    Raises TypeError when the code is no integer or the reason no text, and ValueError when
    the code may not go on the wire or the reason needs more than 123 bytes of UTF-8.
    """

    code: int
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.code, int) or isinstance(self.code, bool):
            raise TypeError(f"a close code is an int, not {type(self.code).__name__}")
        if not isinstance(self.reason, str):
            raise TypeError(f"a close reason is a str, not {type(self.reason).__name__}")
        if self.code not in _REGISTERED_CODES and not 3000 <= self.code <= 4999:
            raise ValueError(
                f"close code {self.code} may not go on the wire: "
                "1000-1003, 1007-1014 and 3000-4999 may"
            )
        length = len(self.reason.encode())
        if length > _MAX_REASON:
            raise ValueError(f"a close reason holds {_MAX_REASON} bytes, this one has {length}")


NORMAL = Closing(1000)
GOING_AWAY = Closing(1001, "the server is going away")
TINY_FRAGMENTS = Closing(1008, "too many tiny fragments")
TOKEN_EXPIRED = Closing(1008, "the token has run out")
RATE_EXCEEDED = Closing(1008, "too many messages")
TOO_BIG = Closing(1009, "the message is too big")
INTERNAL_ERROR = Closing(1011, "internal error")
TRY_AGAIN_LATER = Closing(1013, "too slow to follow")
BEGIN_ANEW = Closing(1013, "a gap would follow: come back with the last id")
UNAVAILABLE = Closing(1013, "this can't be done just now")
