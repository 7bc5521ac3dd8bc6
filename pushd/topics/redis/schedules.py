"""Schedules in Redis, which all nodes share: each publication is made once, by a node that lives.

A schedule is a hash ``pushd:schedule:ID`` with its data and how many publications are done. Redis
itself decides what is due, by its own clock: a node says which schedules it takes for due, and one
script (``PUBLISH_DUE``) looks whether they are, publishes, and counts that as done. So it does not
matter whether a node dies before it has asked or after that, whether its answer is lost, or how
many nodes ask for the same publication: it is made by the first request that comes when it is due.

So that not all nodes ask for everything, each schedule belongs to one node, at first to that which
has accepted it: ``pushd:schedules:due:NODE`` has the schedules of a node, sorted by the time of
their next publication. A node asks every second for those that are due soon, and sets timers for
them. With that it renews the time until which it is taken for alive, in
``pushd:schedules:nodes``, and takes over the schedules of nodes that are not. Where that is wrong,
as a node was only slow, it loses its schedules and nothing else.

``pushd:schedules`` has all schedules in the order in which they were accepted, and
``pushd:schedules:totals`` what counts towards the limits of all nodes together. No key expires, as
a schedule may be due after a day; without schedules, there is no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.schedule.histogram import Histogram
from pushd.schedule.timeouts import TimerHeap
from pushd.topics import scheduled
from pushd.topics.redis.commands import TopicCommands, reading
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import FORGETTING, RedisNames, Script, encode
from pushd.topics.scheduled import Dropped, Schedule, ScheduleState, too_many

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

# Seconds between two requests of a node for its schedules, and for how many seconds it is taken for
# alive after one. A node that is blocked for longer loses its schedules to another.
_INTERVAL = 1.0
_ALIVE = 3.0

# The timers are set of schedules that are due within this many seconds: until the next request is
# answered, and some more if it is late.
_WINDOW = 2.5

# How many schedules are published, or described, by one script.
_BATCH = 100

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function exact(number)
    return string.format('%.17g', number)
end
"""

#: Keeps a schedule. Returns 1, the time of its first publication in ms, and the ms until then;
#: or 0 and the totals if that would exceed a limit.
KEEP = Script(
    _CLOCK
    + """
local id, node, delay, at, size, rate = unpack(ARGV, 1, 6)
local number = redis.call('ZCARD', KEYS[1])
local totals = redis.call('HMGET', KEYS[2], 'bytes', 'rate')
local bytes, rates = tonumber(totals[1] or 0), tonumber(totals[2] or 0)
if number >= tonumber(ARGV[7]) or bytes + size > tonumber(ARGV[8])
        or rates + rate > tonumber(ARGV[9]) then
    return {0, number, bytes, exact(rates)}
end
local first = tonumber(at) or now + delay
redis.call('HSET', KEYS[3], 'node', node, 'first', exact(first), 'done', 0,
    'size', size, 'rate', rate, unpack(ARGV, 11))
redis.call('ZADD', KEYS[1], exact(now), id)
redis.call('ZADD', KEYS[4], exact(first), id)
redis.call('ZADD', KEYS[5], exact(now + ARGV[10]), node)
redis.call('HINCRBY', KEYS[2], 'bytes', size)
redis.call('HINCRBY', KEYS[2], 'rate', rate)
return {1, exact(first), exact(first - now)}
"""
)

#: Takes over the schedules of dead nodes. Returns the schedules of this node that are due soon: of
#: each its id, its topic, and the milliseconds until then.
CLAIM = Script(
    _CLOCK
    + """
local node, alive, window, due_prefix, schedule_prefix = unpack(ARGV)
local mine = due_prefix .. node
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', exact(now))) do
    if dead ~= node then
        local theirs = redis.call('ZRANGE', due_prefix .. dead, 0, -1, 'WITHSCORES')
        for place = 1, #theirs, 2 do
            local record = schedule_prefix .. theirs[place]
            if redis.call('EXISTS', record) == 1 then
                redis.call('HSET', record, 'node', node)
                redis.call('ZADD', mine, theirs[place + 1], theirs[place])
            end
        end
        redis.call('DEL', due_prefix .. dead)
        redis.call('ZREM', KEYS[1], dead)
    end
end
if redis.call('EXISTS', mine) == 0 then
    redis.call('ZREM', KEYS[1], node)
    return {}
end
redis.call('ZADD', KEYS[1], exact(now + alive), node)
local soon = redis.call('ZRANGEBYSCORE', mine, '-inf', exact(now + window), 'WITHSCORES')
local found = {}
for place = 1, #soon, 2 do
    local topic = redis.call('HMGET', schedule_prefix .. soon[place], 'topic')[1]
    if topic then
        found[#found + 1] = {soon[place], topic, exact(math.max(0, soon[place + 1] - now))}
    else
        redis.call('ZREM', mine, soon[place])
    end
end
return found
"""
)

#: Gives back the schedules of a node that stops: others take them over at once.
RELEASE = Script(
    """
if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('ZADD', KEYS[1], 0, ARGV[1])
end
return 1
"""
)

#: Removes a schedule. Returns 0 if there is none.
CANCEL = Script(
    FORGETTING
    + """
local known = redis.call('HMGET', KEYS[3], 'node', 'size', 'rate')
if not known[1] then
    return 0
end
forget(KEYS[1], KEYS[2], KEYS[3], ARGV[2] .. known[1], ARGV[1], known[2], known[3])
return 1
"""
)

#: Returns the state of each schedule that is still pending.
DESCRIBE_SCHEDULES = Script(
    """
local found = {}
for number, record in ipairs(KEYS) do
    local known = redis.call('HMGET', record, 'topic', 'count', 'done', 'every', 'first')
    if known[1] then
        found[#found + 1] = {ARGV[number], unpack(known)}
    end
end
return found
"""
)


class RedisSchedules:
    """A ``ScheduleStore`` in Redis, through the session of the broker.

    :param node: the name of this node, which no other has.
    :param name: the address of Redis for the log, without the password.
    :param grace: for how many seconds a publication may have been due that is still made.
    :param published: called with the number of publications that were made.
    :param lateness: how late they were, in seconds.
    """

    durable = True

    def __init__(
        self,
        reactor: Any,
        reconnector: Reconnector,
        commands: TopicCommands,
        names: RedisNames,
        *,
        node: str,
        name: str,
        grace: float,
        published: Callable[[int], object],
        lateness: Histogram,
    ) -> None:
        self._reactor = reactor
        self._reconnector = reconnector
        self._commands = commands
        self._names = names
        self._node = node
        self._name = name
        self._grace = grace
        self._published = published
        self._lateness = lateness
        self._dropped: Callable[[Dropped], None] = _ignore
        self._running = False
        # The topics of schedules that are due soon: each has a timer, is in the list of those that
        # are due, or is being asked about.
        self._topics: dict[str, str] = {}
        self._timers: TimerHeap[str] = TimerHeap(
            reactor, now=reactor.seconds, expired=self._expired
        )
        self._due: list[str] = []
        self._next_claim: IDelayedCall | None = None
        self._next_publish: IDelayedCall | None = None
        # The last error of Redis that was logged.
        self._fault: str | None = None

    # What ScheduledPublications calls

    def start(self, dropped: Callable[[Dropped], None]) -> None:
        """Start to publish what is due, now or in the next session."""
        self._dropped, self._running = dropped, True
        if self._reconnector.session is not None:
            self.connected(self._reconnector.session)

    def add(self, schedule: Schedule) -> Deferred[ScheduleState]:
        """Keep a schedule. Fails with TooManyScheduled if all nodes together have too many."""
        return Deferred.fromCoroutine(self._add(schedule))

    def cancel(self, id: str) -> Deferred[bool]:
        """Remove a schedule of any node."""
        return Deferred.fromCoroutine(self._cancel(id))

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Give the state of a schedule of any node."""
        return Deferred.fromCoroutine(self._describe([id])).addCallback(_first)

    def all(self) -> Deferred[list[ScheduleState]]:
        """Give the states of the schedules of all nodes."""
        return Deferred.fromCoroutine(self._all())

    def stop(self) -> Deferred[list[ScheduleState]]:
        """Leave the schedules to other nodes, or to the next start: none is lost."""
        self._running = False
        self.disconnected()
        session = self._reconnector.session
        if session is None:
            return succeed([])
        keys = [self._names.schedule_nodes, self._names.due_prefix + self._node]
        released = session.run_script(RELEASE, keys, [self._node])
        # If that fails, they have to wait until this node is taken for dead.
        return released.addBoth(lambda _: [])

    # What the broker calls

    def connected(self, session: RedisSession) -> None:
        """Begin a new session: ask for what is due."""
        self._fault = None
        if self._running:
            self._claim(session)

    def disconnected(self) -> None:
        """End the session: what is due until the next one is late."""
        for call in (self._next_claim, self._next_publish):
            if call is not None and call.active():
                call.cancel()
        self._next_publish = None
        for id in self._topics:
            self._timers.stop(id)
        self._topics.clear()
        self._due.clear()

    # Private

    async def _add(self, schedule: Schedule) -> ScheduleState:
        draft, names = schedule.draft, self._names
        kind, data = encode(draft.data, draft.event, draft.is_json)
        keys = [
            names.schedules,
            names.schedule_totals,
            names.schedule_prefix + schedule.id,
            names.due_prefix + self._node,
            names.schedule_nodes,
        ]
        at = "" if schedule.at is None else repr(schedule.at * 1000)
        args: list[Any] = [schedule.id, self._node, repr(schedule.delay * 1000), at]
        args += [schedule.size, schedule.rate]
        args += [scheduled.MAX_SCHEDULED, scheduled.MAX_BYTES]
        args += [scheduled.MAX_RATE * scheduled.RATE_PERIOD, int(_ALIVE * 1000)]
        args += ["topic", draft.topic, "kind", kind, "data", data]
        args += ["every", repr(schedule.every * 1000), "count", schedule.count]
        with self._asking() as session:
            answer = await session.run_script(KEEP, keys, args)
            with reading():
                kept, *numbers = map(float, answer)
                first, left = numbers[0] / 1000, numbers[1] / 1000
        if not kept:
            raise too_many(schedule, *map(int, numbers))
        self._set_timer(session, schedule.id, draft.topic, left)
        return ScheduleState(
            schedule.id, draft.topic, schedule.count, done=0, every=schedule.every, due=first
        )

    async def _cancel(self, id: str) -> bool:
        names = self._names
        keys = [names.schedules, names.schedule_totals, names.schedule_prefix + id]
        with self._asking() as session:
            answer = await session.run_script(CANCEL, keys, [id, names.due_prefix])
        return bool(answer == 1)

    async def _all(self) -> list[ScheduleState]:
        with self._asking() as session:
            answer = await session.run("ZRANGE", self._names.schedules, 0, -1)
            with reading():
                ids = [id.decode() for id in answer]
        states: list[ScheduleState] = []
        for place in range(0, len(ids), _BATCH):
            states += await self._describe(ids[place : place + _BATCH])
        return states

    async def _describe(self, ids: Sequence[str]) -> list[ScheduleState]:
        keys = [self._names.schedule_prefix + id for id in ids]
        with self._asking() as session:
            answer = await session.run_script(DESCRIBE_SCHEDULES, keys, ids)
            with reading():
                return [_read_state(*known) for known in answer]

    @contextmanager
    def _asking(self) -> Iterator[RedisSession]:
        """Give the session; raise Unavailable if there is none, or if Redis returns an error."""
        session = self._reconnector.session
        if session is None:
            raise Unavailable(self._reconnector.fault())
        try:
            yield session
        except (RedisUnavailable, RedisError) as error:
            self._reconnector.refused(session, error)
            raise Unavailable(f"Redis at {self._name}: {error}") from None

    def _claim(self, session: RedisSession) -> None:
        """Ask for the schedules that are due soon, and do that again every second."""
        self._next_claim = self._reactor.callLater(_INTERVAL, self._claim, session)
        claiming = Deferred.fromCoroutine(self._set_timers(session))
        claiming.addErrback(self._reconnector.log_failure)

    async def _set_timers(self, session: RedisSession) -> None:
        names = self._names
        args = [self._node, int(_ALIVE * 1000), int(_WINDOW * 1000)]
        args += [names.due_prefix, names.schedule_prefix]
        try:
            answer = await session.run_script(CLAIM, [names.schedule_nodes], args)
            with reading():
                found = [(id.decode(), topic.decode(), float(left)) for id, topic, left in answer]
        except RedisUnavailable:
            return
        except RedisError as error:
            self._failed(session, error)
            return
        if not found:
            self._fault = None  # Nothing is late.
        for id, topic, left in found:
            self._set_timer(session, id, topic, left / 1000)

    def _set_timer(self, session: RedisSession, id: str, topic: str, left: float) -> None:
        """Let Redis be asked for a schedule that is due soon, once."""
        if (
            left <= _WINDOW
            and id not in self._topics
            and self._running
            and self._reconnector.session is session
        ):
            self._topics[id] = topic
            self._timers.start(id, self._reactor.seconds() + left)

    def _expired(self, id: str) -> None:
        """Take a schedule for due; all of this iteration of the reactor are asked for together."""
        self._due.append(id)
        if self._next_publish is None:
            self._next_publish = self._reactor.callLater(0, self._publish)

    def _publish(self) -> None:
        self._next_publish = None
        due, self._due = self._due, []
        session = self._reconnector.session
        assert session is not None  # Without one, there are no timers.
        for place in range(0, len(due), _BATCH):
            some = {id: self._topics[id] for id in due[place : place + _BATCH]}
            publishing = Deferred.fromCoroutine(self._publish_due(session, some))
            publishing.addErrback(self._reconnector.log_failure)

    async def _publish_due(self, session: RedisSession, due: dict[str, str]) -> None:
        """Ask for schedules, and set the timers for their next publications."""
        try:
            answers = await self._commands.publish_due(
                session, list(due.items()), node=self._node, grace=self._grace
            )
        except RedisUnavailable:
            return  # The next session asks for all.
        except RedisError as error:
            self._failed(session, error)
            answers = []
        else:
            self._fault = None
        if self._reconnector.session is session:
            for id in due:
                self._topics.pop(id, None)
        for (id, topic), answer in zip(due.items(), answers, strict=False):
            if answer.made:
                self._published(answer.made)
                self._lateness.observe(answer.late)
            if answer.dropped:
                self._dropped(Dropped(id, topic, number=answer.dropped, count=answer.count))
            if answer.owned:
                self._set_timer(session, id, topic, answer.left)

    def _failed(self, session: RedisSession, error: RedisError) -> None:
        """Log why nothing can be published; the next claim tries again."""
        reason = str(error)
        if reason != self._fault:
            self._fault = reason
            _log.warn(
                "scheduled publications are late, as Redis at {name} returned an error: {error}",
                event="timed_push_late",
                name=self._name,
                error=reason,
            )
        self._reconnector.refused(session, error)


def _read_state(
    id: bytes, topic: bytes, count: bytes, done: bytes, every: bytes, first: bytes
) -> ScheduleState:
    """Decode the state of a schedule. Raises ValueError if it is malformed."""
    due = float(first) + int(done) * float(every)
    return ScheduleState(
        id.decode(), topic.decode(), int(count), int(done), float(every) / 1000, due / 1000
    )


def _first(states: list[ScheduleState]) -> ScheduleState | None:
    return states[0] if states else None


def _ignore(dropped: Dropped) -> None:
    """Ignore what is dropped: nothing was started."""
