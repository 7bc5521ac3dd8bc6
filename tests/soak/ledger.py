"""The ledger of a soak test: what each id stands for, and what each subscriber may be given next.

Nobody tells the ledger what was published: the answers to publishers and the deliveries to
subscribers do. All that name an id must agree on its data, and those of a subscriber must follow
each other without a gap.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

# Faults that are kept word by word; the others are counted.
_KEPT = 50

# What marks data that was published more than once.
_AMBIGUOUS = ("", 0)

#: How data begins that is published again and again, so that it tells no id.
REPEATED = "again "


@dataclass
class Faults:
    """What went wrong: the first lines, and how many there are.

    :param say: is told each of these lines at once.
    """

    say: Callable[[str], object] = str
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: str) -> None:
        """Add one."""
        self.count += 1
        if len(self.lines) < _KEPT:
            self.lines.append(line)
            self.say(f"FAULT: {line}")


@dataclass(frozen=True)
class Limits:
    """How far back the daemons' history reaches, and how late anything may be.

    :param size: publications of a topic.
    :param ttl: seconds.
    :param patience: seconds until every subscriber must have a publication.
    """

    size: int
    ttl: float
    patience: float


def split_id(text: str) -> tuple[str, int]:
    """Return epoch and offset of an id."""
    epoch, _, offset = text.rpartition(":")
    return epoch, int(offset)


class Ledger:
    """The publications of all topics.

    :param now: seconds, from any start.
    """

    def __init__(self, limits: Limits, now: Callable[[], float], faults: Faults) -> None:
        self.limits, self.now, self.faults = limits, now, faults
        #: When the history was lost, and when Redis began to fail or was back, most recently.
        self.wiped = -1e9
        self.disturbed = -1e9
        self._data: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self._times: Counter[tuple[str, int]] = Counter()
        self._places: dict[tuple[str, int], tuple[str, int]] = {}
        # The epochs of each topic in the order in which they were heard of, with their last offset.
        self._ends: dict[str, dict[str, int]] = defaultdict(dict)
        # When each epoch of a topic was first heard of.
        self._born: dict[tuple[str, str], float] = {}
        # The ids of each topic and when they were first heard of: the first is the last that every
        # subscriber must have, if it is old enough.
        self._due: dict[str, deque[tuple[float, str, int]]] = defaultdict(deque)
        #: Deliveries and publications that were compared.
        self.compared = 0

    def note(self, topic: str, epoch: str, offset: int, data: str, source: str) -> None:
        """Note that a publication has this data, which all sources must agree on."""
        self.compared += 1
        self.meet(topic, epoch)
        fingerprint = hash(data)
        known = self._data[topic, epoch].get(offset)
        if known is None:
            self._data[topic, epoch][offset] = fingerprint
            self._times[topic, fingerprint] += 1
        elif known != fingerprint:
            self.faults.add(f"{source}: {topic} {epoch}:{offset} is {data[:40]!r}, others disagree")
            return
        place = self._places.setdefault((topic, fingerprint), (epoch, offset))
        if place != (epoch, offset):
            self._places[topic, fingerprint] = _AMBIGUOUS
        if offset > self._ends[topic].get(epoch, 0):
            self._ends[topic][epoch] = offset
            self._due[topic].append((self.now(), epoch, offset))

    def meet(self, topic: str, epoch: str) -> None:
        """Note that there is an epoch."""
        if (topic, epoch) not in self._born:
            self._born[topic, epoch] = self.now()

    def is_lost(self, topic: str, epoch: str) -> bool:
        """Whether the history of an epoch was lost, or no epoch is given."""
        return self._born.get((topic, epoch), -1e9) <= self.wiped

    def find(self, topic: str, data: str) -> tuple[str, int] | None:
        """Return the id of data that was published once, as far as is known."""
        if data.startswith(REPEATED):
            return None
        place = self._places.get((topic, hash(data)))
        return None if place is None or place == _AMBIGUOUS else place

    def last(self, topic: str) -> tuple[str, int] | None:
        """Return the last id of a topic."""
        due = self._due[topic]
        return due[-1][1:] if due else None

    def tell(self, known: float) -> str:
        """Tell when something was known, and when Redis last failed."""
        now = self.now()
        return (
            f"which was right {now - known:.1f} s ago; Redis failed {now - self.disturbed:.1f} s "
            f"and was emptied {now - self.wiped:.1f} s ago"
        )

    def times(self, topic: str, data: str) -> int:
        """Return how many times this data was published."""
        return self._times[topic, hash(data)]

    def due(self, topic: str) -> tuple[float, str, int] | None:
        """Return the last id that every subscriber of a topic must have, and when it was told."""
        due, old = self._due[topic], self.now() - self.limits.patience
        while len(due) > 1 and due[1][0] <= old:
            due.popleft()
        return due[0] if due and due[0][0] <= old else None

    def missed(self, topic: str, epoch: str, offset: int) -> int:
        """Return how many publications an epoch of a topic has beyond this one."""
        return self._ends[topic].get(epoch, 0) - offset

    def age(self, topic: str, epoch: str) -> int:
        """Return the place of an epoch among those of a topic: the later, the larger.

        An epoch without publications is the last one.
        """
        order = list(self._ends[topic])
        return order.index(epoch) if epoch in order else len(order)


class Position:
    """The position of one subscriber in one topic.

    :param name: of the subscriber, for faults.
    """

    def __init__(self, ledger: Ledger, topic: str, name: str) -> None:
        self._ledger = ledger
        self.topic = topic
        self._name = name
        self.epoch = ""
        self.offset = 0
        # When it was last known to be right.
        self._known = ledger.now()
        #: How many times it was resumed, and was told that it could not be.
        self.resumed = 0
        self.told = 0

    @property
    def id(self) -> str | None:
        """The last id, or None if it is not known."""
        return f"{self.epoch}:{self.offset}" if self.epoch else None

    def excused(self) -> bool:
        """Whether the history need not reach back to this position."""
        ledger = self._ledger
        return (
            ledger.is_lost(self.topic, self.epoch)
            or ledger.now() - self._known >= ledger.limits.ttl / 2
            or ledger.missed(self.topic, self.epoch, self.offset) >= ledger.limits.size / 2
        )

    def began(self, id: str, recovered: bool, asked: bool) -> None:
        """Note what a subscription was told as it began; ``asked`` if it had named a position."""
        if recovered:
            self.resumed += 1
            if not asked:
                self._fault(f"was told that it is recovered at {id}, and had not asked")
            elif self.epoch and id != self.id:
                self._fault(f"was resumed at {id}, not at {self.id}")
        elif asked:
            self.lost()
        self._set(*split_id(id))

    def lost(self) -> None:
        """Note that it was told that it could not be resumed, but not where it is now."""
        self.told += 1
        if not self.excused():
            self._fault(
                f"was told recovered: false without a reason, after {self.id}, "
                f"{self._ledger.tell(self._known)}"
            )
        self._set("", 0)

    def got(self, id: str, data: str) -> None:
        """Note a publication, which must be the next."""
        epoch, offset = split_id(id)
        if self.epoch and (epoch != self.epoch or offset != self.offset + 1):
            kind = "twice" if epoch == self.epoch and offset <= self.offset else "after a gap"
            self._fault(f"got {id} {kind}, as it was at {self.id}")
        self._set(epoch, offset)
        self._ledger.note(self.topic, epoch, offset, data, self._name)

    def behind(self, since: float) -> bool:
        """Whether a publication is missing that it must have by now, as it is there since then."""
        due = self._ledger.due(self.topic)
        if due is None:
            return False
        when, epoch, offset = due
        if not self.epoch:
            return when >= since
        if epoch == self.epoch:
            return self.offset < offset
        return self._ledger.age(self.topic, self.epoch) < self._ledger.age(self.topic, epoch)

    def _set(self, epoch: str, offset: int) -> None:
        self.epoch, self.offset, self._known = epoch, offset, self._ledger.now()
        if epoch:
            self._ledger.meet(self.topic, epoch)

    def _fault(self, words: str) -> None:
        self._ledger.faults.add(f"{self._name}: {self.topic}: {words}")


class BlindPosition(Position):
    """The position of a subscriber that is given data without ids.

    What it gets is counted from the first publication whose data was published only once; until the
    id of that is known, it is kept.
    """

    def __init__(self, ledger: Ledger, topic: str, name: str) -> None:
        super().__init__(ledger, topic, name)
        self._anchored = False
        self._waiting: list[str] = []
        # What comes next if the subscription was resumed: None if it was not.
        self._expected: tuple[str, int] | None = None

    def connect(self, asked: bool) -> None:
        """Begin a new connection, which resumes from this position if ``asked``."""
        self._anchored = False
        self._waiting.clear()
        self._expected = (self.epoch, self.offset + 1) if asked else None

    def got_data(self, data: str) -> None:
        """Note a publication."""
        if self._anchored:
            self._set(self.epoch, self.offset + 1)
            self._ledger.note(self.topic, self.epoch, self.offset, data, self._name)
        else:
            self._waiting.append(data)
            self._anchor()

    def behind(self, since: float) -> bool:
        """Whether a publication is missing that it must have by now, as it is there since then."""
        self._anchor()
        if self._anchored:
            return super().behind(since)
        # Where it was before says nothing about what it has got.
        due = self._ledger.due(self.topic)
        return due is not None and due[0] >= since

    def _anchor(self) -> None:
        """Find out where the subscription is, if it is known by now."""
        found = (
            (place[0], place[1] - number)
            for number, data in enumerate(self._waiting)
            if (place := self._ledger.find(self.topic, data)) is not None
        )
        epoch, first = next(found, ("", 0))
        if not epoch:
            return
        if self._expected == (epoch, first):
            self.resumed += 1
        elif self._expected is not None:
            self.told += 1
            if not self.excused():
                self._fault(f"was resumed at {epoch}:{first}, not at {self._expected}")
        self._anchored = True
        self.epoch, self.offset = epoch, first - 1
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.got_data(data)
