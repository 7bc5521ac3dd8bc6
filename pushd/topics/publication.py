"""Publications: their topics and ids, and a replay of several."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
