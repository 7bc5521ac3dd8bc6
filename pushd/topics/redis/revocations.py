"""Revocations over Redis: each node tells the others which permissions have been withdrawn.

A revocation is an entry of the stream ``pushd:revocations``, and a message on a channel that every
node subscribes to. A node that comes back to Redis reads in the stream what it has missed, up to a
thousand revocations of the last hour. One that cannot reach Redis keeps its own until it can.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import RedisNames, Script

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

# How many revocations are kept in Redis, and until when after the last one, in ms.
_KEPT = 1000
_HOLD = 3_600_000

# After how many seconds the stream is read again if Redis answered with an error.
_RETRY_DELAY = 5.0

#: Keeps a revocation, and publishes it with its id.
REVOKE = Script(
    """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[3], '*', 'm', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[1], id .. ' ' .. ARGV[2])
return id
"""
)

#: Reads the revocations from an id on.
READ_REVOCATIONS = Script("return redis.call('XRANGE', KEYS[1], ARGV[1], '+')")

# The id of an entry: a time in ms, and a number.
_EntryId = tuple[int, int]


class RedisRevocations:
    """Shares the revocations of a node with the others, through the session of its broker.

    :param node: the name of this node, which no other has.
    :param name: the address of Redis for the log, without the password.
    """

    def __init__(
        self, reactor: Any, reconnector: Reconnector, names: RedisNames, *, node: str, name: str
    ) -> None:
        self._reactor = reactor
        self._reconnector = reconnector
        self._channel, self._key = names.revocation_channel, names.revocations
        self._node = node
        self._name = name
        self._revoke: Callable[[str | None, str | None], object] = _ignore
        # The last revocation that is known; None before the first session.
        self._last: _EntryId | None = None
        # Those that came over the channel while the stream was being read; None at other times.
        self._early: deque[tuple[bytes, bytes]] | None = None
        # Those of this node that Redis has not confirmed.
        self._untold: deque[str] = deque(maxlen=_KEPT)
        self._retry: IDelayedCall | None = None

    # What the Revoker calls

    def start(self, revoke: Callable[[str | None, str | None], object]) -> None:
        """Call a function with the topic and the subject of each revocation at another node."""
        self._revoke = revoke

    def tell(self, topic: str | None, subject: str | None) -> Deferred[None]:
        """Tell the other nodes of a revocation; they are told later if that fails (Unavailable)."""
        message = json.dumps({"node": self._node, "topic": topic, "subject": subject})
        session = self._reconnector.session
        if session is None:
            self._untold.append(message)
            return fail(Unavailable(self._reconnector.fault()))
        return self._send(session, message)

    # What the broker calls

    def connected(self, session: RedisSession) -> None:
        """Begin a new session: learn what was missed, and tell what could not be told."""
        if self._early is None:
            self._early = deque(maxlen=_KEPT)
        catching_up = Deferred.fromCoroutine(self._catch_up(session))
        catching_up.addErrback(self._reconnector.log_failure)

    def disconnected(self) -> None:
        """End the session."""
        if self._retry is not None and self._retry.active():
            self._retry.cancel()

    def receive(self, channel: bytes, message: bytes) -> bool:
        """Take a message of a channel. Returns False if it is that of another one."""
        if channel != self._channel:
            return False
        id, _, revocation = message.partition(b" ")
        if self._early is None:
            self._take(id, revocation)
        else:
            self._early.append((id, revocation))
        return True

    def _send(self, session: RedisSession, message: str) -> Deferred[None]:
        def failed(failure: Failure) -> None:
            failure.trap(RedisUnavailable, RedisError)
            self._untold.append(message)
            self._reconnector.refused(session, failure.value)
            raise Unavailable(f"Redis at {self._name}: {failure.getErrorMessage()}")

        args = (self._channel, message, _KEPT, _HOLD)
        sending = session.run_script(REVOKE, [self._key], args)
        return sending.addCallbacks(lambda _: None, failed)

    async def _catch_up(self, session: RedisSession) -> None:
        """Subscribe first, then read: what is revoked meanwhile is not missed."""
        is_first = self._last is None
        start = "-" if self._last is None else "({}-{}".format(*self._last)
        try:
            await session.subscribe(self._channel)
            read = session.run_script(READ_REVOCATIONS, [self._key], [start])
            found = [(id, fields[1]) for id, fields in await read]
            if is_first:
                # What was revoked before this node began concerns none of its clients.
                early_ids = {id for id, _ in self._early or ()}
                before = (_parse(id) for id, _ in found if id not in early_ids)
                self._last, found = max(before, default=(0, 0)), []
        except RedisUnavailable:
            return
        except (RedisError, ValueError, TypeError, IndexError) as error:
            self._not_read(session, error)
            return
        early, self._early = self._early or (), None
        for id, revocation in (*found, *early):
            self._take(id, revocation)
        for message in [self._untold.popleft() for _ in range(len(self._untold))]:
            self._send(session, message).addErrback(lambda failure: failure.trap(Unavailable))

    def _not_read(self, session: RedisSession, error: Exception) -> None:
        """Log why the stream cannot be read, and try again."""
        _log.warn(
            "cannot read the revocations of other nodes in Redis at {name}, trying again: {error}",
            event="revocations_unread",
            name=self._name,
            error=str(error),
        )
        self._reconnector.refused(session, error)
        if self._reconnector.session is session:
            self._retry = self._reactor.callLater(_RETRY_DELAY, self.connected, session)

    def _take(self, id: bytes, revocation: bytes) -> None:
        """Revoke here what was revoked at another node, once."""
        try:
            entry, members = _parse(id), json.loads(revocation)
            node, topic, subject = (members[name] for name in ("node", "topic", "subject"))
            if self._last is None or entry <= self._last:
                return
            self._last = entry
            if node != self._node:
                self._revoke(topic, subject)
        except (ValueError, TypeError, KeyError, AttributeError):
            _log.warn(
                "unexpected message on Redis channel {channel}: another program writes to it",
                event="broker_misused",
                channel=self._channel.decode(),
            )


def _parse(id: bytes) -> _EntryId:
    """Parse the id of an entry. Raises ValueError."""
    time, number = map(int, id.split(b"-"))
    return time, number


def _ignore(topic: str | None, subject: str | None) -> None:
    """Ignore a revocation: nothing revokes yet."""
