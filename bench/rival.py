"""A rival: how it is started, which workloads it supports, and whether it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The paths of each operation, unless a rival has others.
PATHS = {
    "demo": "/test/",
    "subscribe": "/subscribe/",
    "publish": "/publish/",
    "echo": "/echo/",
    "handshake": "/echo/",
    # At the control port; "%" is replaced with the number of the publisher.
    "post": "/post/%",
    "batch": "/publish",
    "stream": "/stream/",
    # A long poll, and the publication that answers it.
    "poll": "/poll/",
    "announce-poll": "/announce-poll/",
    # Event streams and who posts to them; a second such topic.
    "events": "/events/",
    "announce": "/announce/",
    # Where they can post many at once; empty if they can't.
    "announce-batch": "",
    "live": "/live/",
    "announce-live": "/announce-live/",
}


@dataclass(frozen=True)
class Start:
    """How a server is started."""

    command: list[str]
    #: The working directory.
    directory: Path
    #: The log line of a server that listens; its group is the port, unless ``port`` is set.
    ready: str = r"listening on (\d+)"
    port: int | None = None
    #: The log line with the port of publishers, if they have one of their own.
    control: str | None = None
    #: Environment variables in addition to our own.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: File descriptors that it inherits.
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A server that is measured."""

    name: str
    #: The heading of its column.
    title: str
    #: Write the files that it needs into a folder, and return how to start it.
    start: Callable[[Path], Start]
    #: Its version, or None if it is not installed.
    version: Callable[[], str | None]
    #: Where it can be installed from.
    source: str
    paths: Mapping[str, str] = field(default_factory=lambda: PATHS)
    #: The fraction of the work that it does: below 1 for a server that would take minutes.
    share: float = 1
    #: Whether it pings idle connections.
    pings: bool = True
    #: Whether the answer to a publisher has the id of the publication.
    gives_ids: bool = True
