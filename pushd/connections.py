"""Who is here: counted, and asked to leave at the end."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed

from pushd.messages import Closing


class Closable(Protocol):
    """Somebody who is here, and can be asked to leave."""

    def close_with(self, closing: Closing) -> Any:
        """Close in this way."""


class Connections:
    """Everybody who listens or talks, from the beginning to the end of the connection."""

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        #: How everybody is being asked to leave, once the daemon stops.
        self.closing: Closing | None = None
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, visitor: Closable) -> None:
        """Count somebody in."""
        self._open.add(visitor)

    def lost(self, visitor: Closable) -> None:
        """Count somebody out: the connection is gone."""
        self._open.discard(visitor)
        while self._emptied and not self._open:
            self._emptied.pop().callback(None)

    def __contains__(self, visitor: Closable) -> bool:
        return visitor in self._open

    def everybody(self) -> list[Closable]:
        """All who are here."""
        return list(self._open)

    def close_door(self, closing: Closing) -> Deferred[None]:
        """Let nobody in any more; the Deferred fires when the last who is here is gone."""
        self.closing = closing
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied
