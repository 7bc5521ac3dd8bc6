"""Presence: who listens to a topic, at this node and at those that share it through an exchange.

A subject is present while it has a connection at any node, and for ``LINGER`` seconds after that,
so that a browser that reconnects neither leaves nor joins. Each node lets its own subjects linger;
what all nodes together have of a subject decides whether it is present.

Watchers are subscribers that want to know. Each first gets the whole list, then what has changed
since, some changes together. One that has no room gets the whole list again once it has. So nothing
waits for a slow watcher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s
from itertools import islice
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pushd.access.limits import Limits
from pushd.schedule.timeouts import TimeoutQueue

_log = Logger(namespace="pushd.topics")

#: How long a subject is present after its last connection has ended, in seconds.
LINGER = 5.0

# The least time between two notices about one topic, in seconds: in a storm of joins, each would
# be sent to thousands. If there are counts only, they come less often.
_PACE = 0.1
_COUNTS_PACE = 5.0

# For how long a topic is followed at other nodes after its last watcher has left, in seconds: a
# client that polls is not a watcher between two polls.
_FOLLOW_ON = 30.0

# How many watchers are told in one iteration of the reactor.
_PORTION = 500

# How many of a subject's connections are listed; all of them are counted.
_MAX_LISTED = 100

#: What stands for the version of a list that has counts only.
COUNTS_ONLY = "counts"


@dataclass(frozen=True, slots=True)
class Present:
    """A subject that listens to a topic, with its connections at one node or at all of them."""

    #: None for a client that has none; then ``connection`` identifies it.
    subject: str | None
    #: The connection with which it joined.
    connection: str
    #: The names of its connections, at most a hundred; none while it lingers.
    connections: tuple[str, ...] = ()
    #: The number of its connections.
    count: int = 0
    #: What its token or the authorizer says of it, as for JSON.
    info: Any = None

    @property
    def key(self) -> str:
        """What identifies the subject in its topic."""
        return _key(self.subject, self.connection)


# A subject that is not there.
_NOBODY = Present(None, "")


@dataclass(frozen=True)
class PresenceList:
    """Who listens to a topic."""

    topic: str
    #: None if there are more than ``--max-present``.
    subjects: tuple[Present, ...] | None
    #: The number of subjects, and of their connections.
    count: int
    connections: int

    @cached_property
    def version(self) -> str:
        """What changes when somebody joins or leaves; the same at all nodes."""
        if self.subjects is None:
            return COUNTS_ONLY
        keys = "\n".join(sorted(one.key for one in self.subjects))
        return blake2s(keys.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A subject has joined a topic, or left it."""

    topic: str
    joined: bool
    present: Present


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """A connection of a subject has joined a topic, or left it."""

    topic: str
    joined: bool
    #: The name of the connection.
    connection: str
    present: Present


#: What watchers are told.
Event = PresenceList | PresenceChange | ConnectionChange


class Notice:
    """What watchers are told together: a whole list, or some changes."""

    __slots__ = ("_rendered", "events")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self._rendered: dict[Any, bytes] = {}

    def render(self, form: Callable[[Sequence[Any]], bytes]) -> bytes:
        """Return the notice as it is written in a form, which is computed once for all watchers."""
        rendered = self._rendered.get(form)
        if rendered is None:
            rendered = self._rendered[form] = form(self.events)
        return rendered


class Watcher(Protocol):
    """A subscriber that is told who joins and leaves."""

    def notify(self, notice: Notice) -> bool:
        """Send a notice; return False if there is no room for it.

        Then ``Watch.resume`` must be called once there is.
        """


@dataclass(frozen=True, slots=True)
class Others:
    """What other nodes have of a topic: their subjects, by node and key, or counts only."""

    parts: Mapping[str, Mapping[str, Present]]
    #: The number of subjects and of connections, if there are too many subjects to list.
    counts: tuple[int, int] | None = None


NO_OTHERS = Others({})


class PresenceExchange(Protocol):
    """Shares presence with other nodes."""

    def start(self, local: LocalPresence) -> None:
        """Start."""

    def share(self, topic: str, key: str) -> None:
        """Tell the other nodes soon what this node has of a subject."""

    def follow(self, topic: str) -> None:
        """Tell this node what the others have of a topic, and what changes."""

    def unfollow(self, topic: str) -> None:
        """Stop that."""

    def read(self, topic: str, limit: int) -> Deferred[Others]:
        """Read what the others have; more than ``limit`` subjects are only counted.

        Fails with ``Unavailable``.
        """

    def leave(self) -> Deferred[None]:
        """Tell the other nodes that this one stops."""

    def stop(self) -> None:
        """Stop. Deferreds that are pending fail."""


class LocalPresence(Protocol):
    """This node, as an exchange needs it."""

    @property
    def limit(self) -> int:
        """The number of subjects up to which they are listed."""

    def topics(self) -> list[str]:
        """Return the topics of which this node has subjects."""

    def part(self, topic: str) -> Mapping[str, Present]:
        """Return what this node has of a topic, by key."""

    def find(self, topic: str, key: str) -> Present | None:
        """Return what this node has of a subject."""

    def counts(self, topic: str) -> tuple[int, int]:
        """Return how many subjects and connections this node has of a topic."""

    def others_read(self, topic: str, others: Others) -> None:
        """Take what the others have of a topic that is followed."""

    def other_changed(self, topic: str, node: str, changes: Mapping[str, Present | None]) -> None:
        """Take what has changed at one of them."""


class _Subject:
    """A subject at this node."""

    __slots__ = ("connection", "connections", "info", "subject")

    def __init__(self, subject: str | None, connection: str) -> None:
        self.subject = subject
        self.connection = connection
        # How often each is there: a client may subscribe twice under one name.
        self.connections: dict[str, int] = {}
        self.info: Any = None

    def present(self) -> Present:
        return Present(
            self.subject,
            self.connection,
            tuple(islice(self.connections, _MAX_LISTED)),
            len(self.connections),
            self.info,
        )


class _Topic:
    """A topic that has subjects at this node, or watchers."""

    __slots__ = (
        "announced",
        "call",
        "changed",
        "connections",
        "counted_at",
        "crowded",
        "flushed_at",
        "followed",
        "full",
        "listeners",
        "moves",
        "others",
        "own",
        "stale",
        "watchers",
    )

    def __init__(self) -> None:
        self.own: dict[str, _Subject] = {}
        # The number of connections of all own subjects.
        self.connections = 0
        # What the other nodes have; None until that is known.
        self.others: Others | None = None
        self.followed = False
        self.watchers: dict[Watch, None] = {}
        # Watchers that need the whole list, and those that need it once they have room.
        self.stale: dict[Watch, None] = {}
        self.full: dict[Watch, None] = {}
        # Watchers of connections, and what they have yet to be told.
        self.listeners: dict[Watch, None] = {}
        self.moves: list[ConnectionChange] = []
        # What all other watchers know; None if they know counts only, or nothing.
        self.announced: dict[str, Present] | None = None
        # The keys of what may have changed since.
        self.changed: set[str] = set()
        # True if there are too many subjects to list.
        self.crowded = False
        # Tells the watchers, or the rest of them.
        self.call: IDelayedCall | None = None
        # When something, and when counts, were last sent to all.
        self.flushed_at = self.counted_at = -_COUNTS_PACE

    def find(self, key: str) -> Present | None:
        """Return what all nodes have of a subject."""
        own = self.own.get(key)
        parts = [] if own is None else [own.present()]
        others = self.others or NO_OTHERS
        parts += [part[key] for part in others.parts.values() if key in part]
        return _unite(parts) if parts else None

    def all(self, others: Others) -> dict[str, Present]:
        """Return all subjects, those of other nodes included, by key and sorted by it."""
        found: dict[str, list[Present]] = {key: [own.present()] for key, own in self.own.items()}
        for part in others.parts.values():
            for key, present in part.items():
                found.setdefault(key, []).append(present)
        return {key: _unite(found[key]) for key in sorted(found)}


class Attendance:
    """That a connection listens to a topic."""

    __slots__ = ("_connection", "_key", "_presence", "_topic")

    def __init__(self, presence: Presence, topic: str, key: str, connection: str) -> None:
        self._presence: Presence | None = presence
        self._topic = topic
        self._key = key
        self._connection = connection

    def leave(self) -> None:
        """End it; does nothing if it has ended."""
        presence, self._presence = self._presence, None
        if presence is not None:
            presence._leave(self._topic, self._key, self._connection)


class Watch:
    """That a watcher is told who joins and leaves a topic."""

    __slots__ = ("_presence", "topic", "watcher")

    def __init__(self, presence: Presence, topic: str, watcher: Watcher) -> None:
        self._presence: Presence | None = presence
        self.topic = topic
        self.watcher = watcher

    def resume(self) -> None:
        """Send the whole list if the watcher needs it: there is room again."""
        if self._presence is not None:
            self._presence._resume(self)

    def cancel(self) -> None:
        """End it; does nothing if it has ended."""
        presence, self._presence = self._presence, None
        if presence is not None:
            presence._unwatch(self)


class Presence:
    """Who is present at this node, and what is known of the others.

    :param limits: with the number of subjects up to which they are listed.
    :param node: the name of this node, in the names of its connections.
    :param exchange: shares presence with other nodes; None if there are none.
    """

    def __init__(
        self, clock: IReactorTime, limits: Limits, node: str, exchange: PresenceExchange | None
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._node = node
        self._exchange = exchange
        self._topics: dict[str, _Topic] = {}
        self._lingering: TimeoutQueue[tuple[str, str]] = TimeoutQueue(
            clock, timeout=LINGER, expired=self._linger_expired
        )
        self._unwatched: TimeoutQueue[str] = TimeoutQueue(
            clock, timeout=_FOLLOW_ON, expired=self._unfollow
        )
        self._stopped = False
        if exchange is not None:
            exchange.start(self)

    def join(
        self,
        topic: str,
        number: int,
        *,
        subject: str | None = None,
        info: Any = None,
        client: str | None = None,
    ) -> Attendance:
        """Note that a connection listens to a topic.

        :param number: of the connection, unique in this process.
        :param subject: whose connection it is; None or empty if that is not known.
        :param client: the name that the client gives its connection.
        """
        name = client or f"{self._node}.{number}"
        key = _key(subject or None, name)
        state = self._open(topic)
        own = state.own.get(key)
        if own is None:
            own = state.own[key] = _Subject(subject or None, name)
        self._lingering.stop((topic, key))
        is_new = name not in own.connections
        own.connections[name] = own.connections.get(name, 0) + 1
        own.info = info
        if is_new:
            state.connections += 1
            _note_moves(topic, state, True, own.present(), (name,))
        self._changed(topic, state, key)
        return Attendance(self, topic, key, name)

    def watch(self, topic: str, watcher: Watcher, *, connections: bool = False) -> Watch:
        """Tell a watcher who is present, and who joins and leaves from then on.

        :param connections: whether it is told of connections in place of subjects. Then it gets no
            list, and nothing while it has no room, or while there are too many subjects.
        """
        watch = Watch(self, topic, watcher)
        state = self._open(topic)
        if not (state.watchers or state.listeners) and self._exchange is not None:
            self._unwatched.stop(topic)
            if not state.followed:
                state.followed = True
                self._exchange.follow(topic)
        if connections:
            state.listeners[watch] = None
        else:
            state.watchers[watch] = state.stale[watch] = None
        self._schedule(topic, state)
        return watch

    def describe(self, topic: str) -> Deferred[PresenceList]:
        """Return who is present. Fails with ``Unavailable`` if other nodes cannot be asked."""
        known = self.known(topic)
        if known is not None:
            return succeed(known)
        assert self._exchange is not None
        reading = self._exchange.read(topic, self.limit)
        return reading.addCallback(lambda others: self._list(topic, others))

    def known(self, topic: str) -> PresenceList | None:
        """Return who is present if that is known without asking other nodes."""
        state = self._topics.get(topic)
        if self._exchange is None:
            return self._list(topic, NO_OTHERS)
        if state is None or state.others is None:
            return None
        return self._list(topic, state.others)

    def leave(self) -> Deferred[None]:
        """Tell the other nodes that this one stops."""
        return succeed(None) if self._exchange is None else self._exchange.leave()

    def stop(self) -> None:
        """Forget everything, and stop all timers."""
        self._stopped = True
        for left in tuple(self._lingering):
            self._lingering.stop(left)
        for topic in tuple(self._unwatched):
            self._unwatched.stop(topic)
        for state in self._topics.values():
            _cancel_call(state)
        self._topics.clear()
        if self._exchange is not None:
            self._exchange.stop()

    # What the exchange calls

    @property
    def limit(self) -> int:
        """The number of subjects up to which they are listed."""
        return self._limits.max_present

    def topics(self) -> list[str]:
        """Return the topics of which this node has subjects."""
        return [topic for topic, state in self._topics.items() if state.own]

    def part(self, topic: str) -> Mapping[str, Present]:
        """Return what this node has of a topic, by key."""
        state = self._topics.get(topic)
        own = {} if state is None else state.own
        return {key: subject.present() for key, subject in own.items()}

    def find(self, topic: str, key: str) -> Present | None:
        """Return what this node has of a subject."""
        state = self._topics.get(topic)
        own = None if state is None else state.own.get(key)
        return None if own is None else own.present()

    def counts(self, topic: str) -> tuple[int, int]:
        """Return how many subjects and connections this node has of a topic."""
        state = self._topics.get(topic)
        return (0, 0) if state is None else (len(state.own), state.connections)

    def others_read(self, topic: str, others: Others) -> None:
        """Take what the others have of a topic that is followed."""
        state = self._topics[topic]
        before = NO_OTHERS if state.others is None else state.others
        if state.others is not None and state.listeners:
            _note_others(topic, state, before.parts, others.parts)
        state.others = others
        for one in (before, others):
            for part in one.parts.values():
                state.changed.update(part)
            if one.counts is not None:
                state.changed.add("")  # The key of no subject: only counts have changed.
        self._schedule(topic, state)

    def other_changed(self, topic: str, node: str, changes: Mapping[str, Present | None]) -> None:
        """Take what has changed at one of them."""
        state = self._topics[topic]
        assert state.others is not None
        part = dict(state.others.parts.get(node, {}))
        if state.listeners:
            known = {key: part[key] for key in changes if key in part}
            given = {key: one for key, one in changes.items() if one is not None}
            _note_others(topic, state, {node: known}, {node: given})
        for key, present in changes.items():
            if present is None:
                part.pop(key, None)
            else:
                part[key] = present
        parts = {**state.others.parts, node: part}
        if not part:
            del parts[node]
        state.others = Others(parts)
        state.changed.update(changes)
        self._schedule(topic, state)

    # What attendances, watches and timers call

    def _leave(self, topic: str, key: str, connection: str) -> None:
        if self._stopped:
            return
        state = self._topics[topic]
        own = state.own[key]
        own.connections[connection] -= 1
        if own.connections[connection]:
            return
        del own.connections[connection]
        _note_moves(topic, state, False, own.present(), (connection,))
        state.connections -= 1
        if not own.connections:
            self._lingering.start((topic, key))
        self._changed(topic, state, key)

    def _linger_expired(self, left: tuple[str, str]) -> None:
        topic, key = left
        state = self._topics[topic]
        del state.own[key]
        self._changed(topic, state, key)
        self._close(topic, state)

    def _resume(self, watch: Watch) -> None:
        state = self._topics.get(watch.topic)
        if state is not None and watch in state.full:
            del state.full[watch]
            state.stale[watch] = None
            self._schedule(watch.topic, state)

    def _unwatch(self, watch: Watch) -> None:
        if self._stopped:
            return
        topic = watch.topic
        state = self._topics[topic]
        if watch in state.listeners:
            del state.listeners[watch]
            if state.listeners:
                return
            state.moves.clear()
        else:
            del state.watchers[watch]
            state.stale.pop(watch, None)
            state.full.pop(watch, None)
            if state.watchers:
                return
            state.announced = None
            state.changed.clear()
        if state.watchers or state.listeners:
            return
        _cancel_call(state)
        if state.followed:
            self._unwatched.start(topic)
        self._close(topic, state)

    def _unfollow(self, topic: str) -> None:
        state = self._topics[topic]
        assert self._exchange is not None
        self._exchange.unfollow(topic)
        state.followed, state.others = False, None
        self._close(topic, state)

    def _open(self, topic: str) -> _Topic:
        state = self._topics.get(topic)
        if state is None:
            state = self._topics[topic] = _Topic()
            if self._exchange is None:
                state.others = NO_OTHERS
        return state

    def _close(self, topic: str, state: _Topic) -> None:
        """Forget a topic that has neither subjects nor watchers."""
        if not (state.own or state.watchers or state.listeners or state.followed):
            del self._topics[topic]

    def _changed(self, topic: str, state: _Topic, key: str) -> None:
        """Take note that this node's part of a subject has changed."""
        if self._exchange is not None:
            self._exchange.share(topic, key)
        if state.watchers:
            state.changed.add(key)
        if state.watchers or state.listeners:
            self._schedule(topic, state)

    def _schedule(self, topic: str, state: _Topic) -> None:
        """Tell the watchers soon, if there is something to tell."""
        if state.others is None or not (state.watchers or state.listeners):
            return
        if not (state.stale or state.changed or state.moves):
            return
        at = state.flushed_at + _PACE
        if state.crowded and not state.stale:
            at = state.counted_at + _COUNTS_PACE
        wait = max(0.0, at - self._clock.seconds())
        if state.call is not None:
            if state.call.getTime() > at:
                state.call.reset(wait)
            return
        state.call = self._clock.callLater(wait, self._flush, topic, state)

    def _flush(self, topic: str, state: _Topic) -> None:
        """Tell the watchers what has changed, and those that need it the whole list."""
        state.flushed_at = self._clock.seconds()
        stale, state.stale = state.stale, {}
        ready = [watch for watch in state.watchers if watch not in state.full]
        others = state.others or NO_OTHERS
        state.crowded = self._count(state, others)[0] > self.limit or others.counts is not None
        notices: list[tuple[Iterator[Watch], Notice]] = []
        moves, state.moves = state.moves, []
        if moves and not state.crowded:
            notices.append((iter(tuple(state.listeners)), Notice(moves)))
        if state.watchers:
            notices += self._notices(topic, state, others, stale, ready)
        self._deliver(topic, state, notices)

    def _notices(
        self,
        topic: str,
        state: _Topic,
        others: Others,
        stale: dict[Watch, None],
        ready: list[Watch],
    ) -> list[tuple[Iterator[Watch], Notice]]:
        """Return what the watchers of subjects are told, and which of them."""
        notices: list[tuple[Iterator[Watch], Notice]] = []
        if state.crowded:
            state.announced = None
            if state.flushed_at >= state.counted_at + _COUNTS_PACE:
                state.counted_at = state.flushed_at
                state.changed.clear()
                stale = dict.fromkeys(ready)
        elif state.announced is None:
            state.announced = state.all(others)
            state.changed.clear()
            stale = dict.fromkeys(ready)
        elif changes := self._take_changes(topic, state):
            notices.append((iter([one for one in ready if one not in stale]), Notice(changes)))
        if stale:
            notices.append((iter(stale), Notice((self._list(topic, others),))))
        return notices

    def _take_changes(self, topic: str, state: _Topic) -> list[PresenceChange]:
        """Return what has changed since the watchers were last told."""
        changed, state.changed = sorted(state.changed), set()
        announced = state.announced
        assert announced is not None
        changes = []
        for key in changed:
            present = state.find(key)
            if present is not None and key not in announced:
                announced[key] = present
                changes.append(PresenceChange(topic, True, present))
            elif present is None and key in announced:
                changes.append(PresenceChange(topic, False, announced.pop(key)))
        return changes

    def _deliver(
        self, topic: str, state: _Topic, notices: list[tuple[Iterator[Watch], Notice]]
    ) -> None:
        """Notify watchers, a portion of them in each iteration of the reactor."""
        state.call = None
        told = 0
        for watches, notice in notices:
            for watch in watches:
                # Else it was cancelled meanwhile.
                if watch in state.watchers or watch in state.listeners:
                    self._notify(state, watch, notice)
                told += 1
                if told == _PORTION:
                    state.call = self._clock.callLater(0, self._deliver, topic, state, notices)
                    return
        self._schedule(topic, state)

    def _notify(self, state: _Topic, watch: Watch, notice: Notice) -> None:
        try:
            has_room = watch.watcher.notify(notice)
        except Exception:
            _log.failure(
                "failed to tell a subscriber of {topic} about presence",
                event="subscriber_failed",
                topic=watch.topic,
            )
            return
        if not has_room and watch in state.watchers:
            state.full[watch] = None

    def _count(self, state: _Topic, others: Others) -> tuple[int, int]:
        """Return the number of subjects, and of their connections."""
        if others.counts is not None:
            subjects, connections = others.counts
            return len(state.own) + subjects, state.connections + connections
        parts = others.parts.values()
        elsewhere = {key for part in parts for key in part}
        connections = sum(one.count for part in parts for one in part.values())
        count = len(state.own) + len(elsewhere.difference(state.own))
        return count, state.connections + connections

    def _list(self, topic: str, others: Others) -> PresenceList:
        state = self._topics.get(topic) or _Topic()
        count, connections = self._count(state, others)
        if others.counts is not None or count > self.limit:
            return PresenceList(topic, None, count, connections)
        return PresenceList(topic, tuple(state.all(others).values()), count, connections)


def _unite(parts: Sequence[Present]) -> Present:
    """Return what several nodes have of one subject."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part.connections)
    return Present(
        parts[0].subject,
        parts[0].connection,
        tuple(islice(names, _MAX_LISTED)),
        sum(part.count for part in parts),
        next((part.info for part in parts if part.info is not None), None),
    )


def _key(subject: str | None, connection: str) -> str:
    """Return what identifies a subject in its topic: a connection, if it has no subject."""
    return f"c{connection}" if subject is None else f"s{subject}"


def _note_moves(
    topic: str, state: _Topic, joined: bool, present: Present, names: Iterable[str]
) -> None:
    """Note for the watchers of connections that some of a subject's have joined or left."""
    if state.listeners:
        state.moves += [ConnectionChange(topic, joined, name, present) for name in names]


def _note_others(
    topic: str,
    state: _Topic,
    before: Mapping[str, Mapping[str, Present]],
    after: Mapping[str, Mapping[str, Present]],
) -> None:
    """Note what has changed at other nodes, of which the first hundred of a subject are known."""
    for node in {**before, **after}:
        old, new = before.get(node, {}), after.get(node, {})
        for key in {**old, **new}:
            was = old.get(key, _NOBODY)
            now = new.get(key, _NOBODY)
            left = set(was.connections).difference(now.connections)
            joined = set(now.connections).difference(was.connections)
            _note_moves(topic, state, False, was, sorted(left))
            _note_moves(topic, state, True, now, sorted(joined))


def _cancel_call(state: _Topic) -> None:
    call, state.call = state.call, None
    if call is not None:
        call.cancel()
