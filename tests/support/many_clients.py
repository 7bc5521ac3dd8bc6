"""Clients with many topics on one connection, over each transport."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pushd.testing import Browser, Daemon
from tests.support.topic_clients import SseClient


class ManySse(SseClient):
    """An event stream: ``heard`` has the JSON of each event, ``cursor`` is that of the last."""

    def __init__(
        self, daemon: Daemon, query: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.heard: list[dict[str, Any]] = []
        self.kinds: list[str] = []
        self.cursor: str | None = None
        self.headers = headers or {}  # type: ignore[misc] # a class variable there
        super().__init__(daemon, query)

    @property
    def path(self) -> str:
        """The path and query of its request."""
        return f"/topics?{self.topic}"

    def take(self) -> list[dict[str, Any]]:
        """Return what was heard since the last call."""
        _ = self.got
        heard, self.heard = self.heard, []
        return heard

    def _hear(self, event: str) -> None:
        fields = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
        if "data" not in fields:
            return
        self.kinds.append(fields.get("event", "message"))
        self.heard.append(json.loads(fields["data"]))
        self.cursor = fields.get("id", self.cursor)


class ManyPolls:
    """Polls, one after the other, that are answered at once."""

    def __init__(self, daemon: Daemon, query: str, cursor: str | None = None) -> None:
        self._daemon, self._query = daemon, query
        self.cursor = cursor
        self.recovered: dict[str, bool] = {}

    def take(self) -> list[dict[str, Any]]:
        """Poll; return the publications."""
        after = "" if self.cursor is None else f"&after={self.cursor}"
        answer = self._daemon.get(f"/topics?{self._query}{after}&wait=0")
        assert answer is not None
        assert answer.status == 200, answer
        value = json.loads(answer.body)
        self.cursor, self.recovered = value["id"], value["recovered"]
        publications: list[dict[str, Any]] = value["publications"]
        return publications


def connect_many(daemon: Daemon, query: str = "") -> Browser:
    """Open a WebSocket for many topics."""
    return daemon.connect(f"/topics{query}", subprotocols=("pushd.v1",))
