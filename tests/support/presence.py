"""A watcher that keeps what it is told of presence, as a page does."""

from __future__ import annotations

from collections.abc import Callable

from pushd.topics.presence import Notice, PresenceList


class RecordingWatcher:
    """Keeps the subjects of a topic, and records what it is told.

    A subject without a name is known by its connection.
    """

    def __init__(self) -> None:
        #: ``= alice bob`` for a whole list, ``# 7`` for counts only, ``+ alice`` and ``- alice``.
        self.events: list[str] = []
        self.present: set[str] = set()
        #: The last whole list.
        self.listed: PresenceList | None = None
        #: Whether it takes what it is told.
        self.room = True
        self.react: Callable[[], object] = lambda: None

    def notify(self, notice: Notice) -> bool:
        """Record a notice."""
        if not self.room:
            return False
        for event in notice.events:
            if isinstance(event, PresenceList):
                self._take(event)
            else:
                name = event.present.subject or event.present.connection
                assert (name in self.present) != event.joined, (name, self.events)
                self.present ^= {name}
                self.events.append(f"{'+' if event.joined else '-'} {name}")
        self.react()
        return True

    def _take(self, listed: PresenceList) -> None:
        self.listed = listed
        if listed.subjects is None:
            self.present = set()
            self.events.append(f"# {listed.count} {listed.connections}")
        else:
            assert len(listed.subjects) == listed.count
            names = [one.subject or one.connection for one in listed.subjects]
            self.present = set(names)
            self.events.append(" ".join(["=", *names]))
