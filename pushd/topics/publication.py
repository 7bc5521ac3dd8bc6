"""Publications, their topics and ids, and a replay of several publications."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from sys import getsizeof

# Segments of letters, digits and five punctuation marks, separated by slashes.
_TOPIC = re.compile(r"[A-Za-z0-9._:-]+(?:/[A-Za-z0-9._:-]+)*")
_MAX_TOPIC = 255

# Segments that a browser or a proxy resolves before it asks for a URL (RFC 3986 §5.2.4): it would
# ask for another topic.
_DOTS = frozenset({".", ".."})

# Names of events; those that pushd itself sends, or that EventSource gives a meaning, are taken.
_EVENT = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TAKEN = frozenset(
    {"base64", "closed", "error", "heartbeat", "joined", "json", "left", "message", "open"}
    | {"presence", "subscribed", "unsubscribed"}
)

# For publications without a client.
_NOBODY = {"user": "", "client": ""}

_ID = re.compile(r"(?P<epoch>[A-Za-z0-9_-]{1,32}):(?P<offset>0|[1-9][0-9]{0,17})")


@lru_cache(maxsize=1024)
def check_topic(name: str) -> str:
    """Return the name if it is valid for a topic. Raises ValueError with the rule if not."""
    if len(name) > _MAX_TOPIC or not _TOPIC.fullmatch(name):
        raise ValueError(
            f"topic must be 1 to {_MAX_TOPIC} letters, digits and -_.: in segments separated by /"
        )
    if "." in name and not _DOTS.isdisjoint(name.split("/")):
        raise ValueError("topic must not have . or .. as a segment: no browser could ask for it")
    return name


def check_event(name: str) -> str:
    """Return the name if it is valid for an event. Raises ValueError with the rule if not."""
    if not _EVENT.fullmatch(name):
        raise ValueError("event must be 1 to 64 letters, digits and -_.:")
    if name in _TAKEN:
        raise ValueError(f"event must not be {name}, which pushd or the browser uses itself")
    return name


def check_metadata(text: str) -> str:
    """Return the metadata of a publication if they are valid.

    They are an object in JSON, with ASCII characters only: ``info`` has the ``user`` and the
    ``client`` that published, and perhaps ``conn_info``, any value; ``tags`` has strings.

    Raises ValueError if they are not.
    """
    if not text.isascii() or "\n" in text:
        raise ValueError("metadata must be one line of ASCII")
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ValueError("metadata must be an object")
    info, tags = metadata.get("info", _NOBODY), metadata.get("tags", {})
    if not isinstance(info, dict) or not isinstance(tags, dict):
        raise ValueError("info and tags must be objects")
    for value in (info.get("user"), info.get("client"), *tags.values()):
        if not isinstance(value, str):
            raise ValueError("user, client and tags must be strings")
    # Raises ValueError for half a surrogate pair, and for what is not a number.
    json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    return text


# These are values, and nothing changes them. Frozen, they would take three to six times as long to
# make, which is a third of what a publication costs in a batch.


@dataclass(slots=True, unsafe_hash=True)
class Id:
    """The position of a publication in its topic.

    The epoch is random, and new whenever the topic's history is new. The offset counts 1, 2, 3…
    without a gap; offset 0 is the position before the first publication.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Id:
        """Parse the text form of an id. Raises ValueError if it is malformed."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ValueError("id must be EPOCH:OFFSET, as received with a publication")
        return cls(match["epoch"], int(match["offset"]))


@dataclass(slots=True, eq=False)
class Publication:
    """One piece of data sent to all subscribers of a topic."""

    topic: str
    data: str | bytes
    id: Id
    #: The name under which an event stream sends it; None for the default.
    event: str | None = None
    #: Whether it was published as application/json. The data is then its text.
    is_json: bool = False
    #: Its place among the publications of all topics: counts up, and may have gaps.
    sequence: int = 0
    #: How many publications before it a subscriber did not get, as their topic is a ``latest`` one.
    conflated: int = 0
    #: What SDKs of Centrifugo get beside the data, as JSON; see ``check_metadata``.
    metadata: str | None = None


def size_of(data: str | bytes) -> int:
    """Return how much memory some data takes, in bytes: text, up to four a character.

    That of text grows when it is encoded, as Python may keep the encoded form, too.
    """
    return getsizeof(data)


@dataclass(frozen=True, slots=True)
class Replay:
    """Publications read from a topic's history, for a subscriber that resumes or is new."""

    #: The id that the first of the publications follows.
    id: Id
    #: True if nothing is missing since the id that was asked for.
    recovered: bool
    publications: tuple[Publication, ...]
    #: The topic's last id.
    last: Id
    #: The sequence of the topic's last publication, or a higher one; see ``TopicSource.newest``.
    sequence: int = 0
