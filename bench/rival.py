"""What a rival is: how it is started, what it can do, and whether it is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What is done at which path, unless a rival has other paths.
PATHS = {
    "demo": "/test/",
    "subscribe": "/subscribe/",
    "publish": "/publish/",
    "echo": "/echo/",
    "handshake": "/echo/",
}

ALL = frozenset({"w1", "w2", "w3", "w4", "w5"})


@dataclass(frozen=True)
class Start:
    """How a server is started."""

    command: list[str]
    #: The folder in which it runs.
    directory: Path
    #: What its log says when it listens; the group is the port, where that is not given before.
    ready: str = r"listening on (\d+)"
    port: int | None = None
    #: Environment variables in addition to our own.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rival:
    """One server that is measured."""

    name: str
    #: What stands at the head of its column.
    title: str
    #: Make ready what it needs in a folder, and say how it is started.
    start: Callable[[Path], Start]
    #: Its version, or None where it is not here.
    version: Callable[[], str | None]
    #: Where to get it.
    source: str
    workloads: frozenset[str] = ALL
    paths: Mapping[str, str] = field(default_factory=lambda: PATHS)
    #: The part of the work that it is given: less for one that would take minutes for all.
    share: float = 1
    #: Whether it pings those who are idle.
    pings: bool = True
