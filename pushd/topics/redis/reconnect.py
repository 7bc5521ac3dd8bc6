"""One session with Redis after the other, for as long as the daemon runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import RedisMisconfigured, RedisUnavailable

_log = Logger(namespace="pushd.topics")

# Importing it needs the library for Redis, which is an extra.
if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_backoff = backoffPolicy(initialDelay=0.1, maxDelay=5.0, factor=1.6)


class Reconnector:
    """Keeps a session open: tries again, less and less often, whenever there is none.

    :param reactor: where time comes from, and when to begin.
    :param open_session: opens a session, given what to call with the reason when it has ended.
    :param name: what to call the Redis in the log; has no password.
    :param opened: called with each new session.
    :param closed: called when a session has ended, and at the end.
    """

    def __init__(
        self,
        reactor: Any,
        open_session: Callable[[Callable[[str], object]], Deferred[Any]],
        *,
        name: str,
        opened: Callable[[RedisSession], None],
        closed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._open_session = open_session
        self._name = name
        self._told_opened = opened
        self._told_closed = closed
        #: The session; None while there is none.
        self.session: RedisSession | None = None
        #: Whether it is over for good.
        self.stopped = False
        self._fault: str | None = "it has not answered yet"
        self._attempts = 0
        self._opening: Deferred[None] | None = None
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begin, once the reactor runs."""
        self._reactor.callWhenRunning(self._open)

    def stop(self) -> None:
        """End."""
        self.stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self.session is not None:
            self.session.end()
        self._close("the daemon stops")

    def fault(self) -> str | None:
        """Why there is no session; None where there is one."""
        return None if self._fault is None else f"Redis at {self._name}: {self._fault}"

    def leave(self, session: RedisSession, reason: str) -> None:
        """End a session that is of no use any more, if it is the one, and open another."""
        if self.session is session:
            session.end()
            self._lost(reason)

    def failed(self, failure: Failure) -> None:
        """Log what nobody has thought of."""
        _log.failure(
            "failed to talk to Redis at {name}",
            failure=failure,
            event="broker_failed",
            name=self._name,
        )

    def _open(self) -> None:
        if not self.stopped:
            opening = self._open_session(self._lost)
            self._opening = opening.addCallbacks(self._opened, self._not_opened)
            self._opening.addErrback(self.failed)

    def _opened(self, session: RedisSession) -> None:
        self.session, self._fault, self._attempts = session, None, 0
        _log.info("Redis at {name} answers", event="broker_back", name=self._name)
        self._told_opened(session)

    def _not_opened(self, failure: Failure) -> None:
        if self.stopped:
            return
        if failure.check(RedisUnavailable, RedisMisconfigured) is None:
            self.failed(failure)
        self._retry(failure.getErrorMessage())

    def _lost(self, reason: str) -> None:
        self._close(reason)
        self._retry(reason)

    def _close(self, reason: str) -> None:
        self.session, self._fault = None, reason
        self._told_closed()

    def _retry(self, reason: str) -> None:
        if self._attempts == 0 or reason != self._fault:
            _log.warn(
                "Redis at {name} is away: {reason}",
                event="broker_away",
                name=self._name,
                reason=reason,
            )
        self._fault = reason
        self._call = self._reactor.callLater(_backoff(self._attempts), self._open)
        self._attempts += 1
