"""Recovery: the histories as the last run left them, and a new epoch for what it may have lost.

Whatever a client may have been told by the last run, it must be able to resume from, or be told
that something may be missing. The database holds all of it if the run has ended in order, or if
each publication was on the disk before anybody knew of it (``--state-sync always``). Otherwise the
topics of publications that may be missing get a new epoch, under which they keep what there is; the
activity log says which they are. Without it, each topic does, and the numbering of all topics
(``TopicSource.generation``) gets a new name, so that no cursor is recovered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.logger import Logger

from pushd.errors import StateDamaged
from pushd.topics.history import History, Topic
from pushd.topics.publication import Id, Publication
from pushd.topics.state.activity_log import Activity
from pushd.topics.state.changes import HistoryChanges
from pushd.topics.state.database import FILE, Database

_log = Logger(namespace="pushd.topics")


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the last run ended; the values of the table ``daemon``."""

    generation: str
    sequence: int
    floor: int
    run: str
    sync: str
    clean: bool


def read_last_run(database: Database) -> LastRun | None:
    """Read how the last run ended; None if there was none. Raises StateDamaged."""
    sql = "SELECT generation, sequence, floor, run, sync, clean FROM daemon"
    for generation, sequence, floor, run, sync, clean in database.read(sql):
        return LastRun(generation, sequence, floor, run, sync, bool(clean))
    for table in ("topic", "publication", "idempotency"):
        if any(database.read(f"SELECT 1 FROM {table} LIMIT 1")):
            raise StateDamaged(f"{FILE} is damaged (it does not say how the last run ended)")
    return None


@dataclass(frozen=True, slots=True)
class Losses:
    """What the last run may have lost.

    :param activity: what its activity log says; None if it has none.
    :param everywhere: whether each topic may have lost something.
    """

    activity: Activity | None = None
    everywhere: bool = False

    @property
    def any(self) -> bool:
        """Whether there may be losses at all."""
        return self.everywhere or (self.activity is not None and self.activity.missing > 0)

    def include(self, topic: str) -> bool:
        """Return whether a topic may have lost a publication."""
        if self.everywhere:
            return True
        return self.activity is not None and self.activity.may_have_lost(topic)


def find_losses(last: LastRun, read_activity: Callable[[str, int], Activity | None]) -> Losses:
    """Find out what a run may have lost.

    :param read_activity: reads the activity log of a run, given the last sequence in the database.
    """
    if last.clean or last.sync == "always":
        return Losses()
    activity = read_activity(last.run, last.sequence)
    return Losses(activity, everywhere=activity is None)


class Recovery:
    """Restores the histories, and the epochs of their topics.

    :param make_epoch: returns a new random epoch.
    :param losses: which topics get one.
    :param now: the time of day, in seconds since 1970.
    """

    def __init__(
        self,
        database: Database,
        history: History,
        changes: HistoryChanges,
        make_epoch: Callable[[], str],
        losses: Losses,
        now: float,
    ) -> None:
        self._database = database
        self._history = history
        self._changes = changes
        self._make_epoch = make_epoch
        self._losses = losses
        self._now = now
        self._topics: dict[str, Topic] = {}
        #: The number of publications that were read, and of new epochs.
        self.publications = self.renewed = 0

    def restore(self, last: LastRun) -> None:
        """Restore everything. Raises StateDamaged if it does not fit together."""
        sequence, activity = last.sequence, self._losses.activity
        if activity is not None:
            # No number is given to a second publication.
            sequence = activity.sequence
        self._restore_topics(sequence)
        self._restore_publications()
        # A topic that is not here may have lost its only publication.
        self._history.restored(sequence, sequence if self._losses.any else last.floor)

    def log_losses(self) -> None:
        """Log which topics have a new epoch, if any."""
        if self._losses.everywhere:
            _log.warn(
                "the last run was killed, or the machine lost its power: what was published last "
                "may be missing, and each topic has a new epoch",
                event="state_renewed",
                topics=self.renewed,
            )
        elif self._losses.any:
            _log.warn(
                "the last run was killed before it had written its last publications: {topics} "
                "topics, which may lack some, have a new epoch",
                event="state_renewed",
                topics=self.renewed,
            )

    def _restore_topics(self, sequence: int) -> None:
        sql = "SELECT name, epoch, offset, sequence, floor FROM topic ORDER BY sequence"
        for name, epoch, offset, own, floor in self._database.read(sql):
            lost = self._losses.include(name)
            if lost:
                epoch, floor = self._make_epoch(), sequence
                self.renewed += 1
            topic = self._history.restore_topic(name, epoch, offset, own, floor)
            self._topics[name] = topic
            if lost:
                self._changes.changed(topic)

    def _restore_publications(self) -> None:
        topics, restore, now = self._topics, self._history.restore, self._now
        # The offset of the next publication of each topic.
        following: dict[str, int] = {}
        for sequence, name, offset, at, data, event, is_json, metadata in self._database.read(
            "SELECT sequence, topic, offset, at, data, event, is_json, text FROM publication "
            "LEFT JOIN metadata USING (sequence) ORDER BY sequence"
        ):
            topic = topics.get(name)
            if topic is None or following.get(name, offset) != offset:
                raise StateDamaged(f"{FILE} is damaged (publications of {name} are missing)")
            following[name] = offset + 1
            id = Id(topic.epoch, offset)
            publication = Publication(
                topic.name, data, id, event, bool(is_json), sequence, 0, metadata
            )
            restore(topic, publication, max(0.0, now - at))
            self.publications += 1
        for name, offset in following.items():
            if topics[name].offset != offset - 1:
                raise StateDamaged(f"{FILE} is damaged (the last publication of {name} is missing)")
