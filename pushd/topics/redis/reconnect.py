"""Keeps a session with Redis open: reconnects whenever it is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import RedisMisconfigured, RedisUnavailable

# Importing it needs the library for Redis, which is an extra.
if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

_backoff = backoffPolicy(initialDelay=0.1, maxDelay=5.0, factor=1.6)


class Reconnector:
    """Opens a session, and another whenever one is lost, with growing delays between attempts.

    :param open_session: opens a session, given what to call with the reason when it is lost.
    :param name: the address of Redis for the log, without the password.
    :param on_open: called with each new session.
    :param on_close: called when a session has been lost or dropped, and by ``stop``.
    """

    def __init__(
        self,
        reactor: Any,
        open_session: Callable[[Callable[[str], object]], Deferred[Any]],
        *,
        name: str,
        on_open: Callable[[RedisSession], None],
        on_close: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._open_session = open_session
        self._name = name
        self._on_open = on_open
        self._on_close = on_close
        #: The open session, if any.
        self.session: RedisSession | None = None
        #: Fires after the first attempt, whatever its result.
        self.tried: Deferred[object] = Deferred()
        #: True after ``stop``.
        self.stopped = False
        self._fault: str | None = "not connected yet"
        self._attempts = 0
        self._opening: Deferred[None] | None = None
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Connect as soon as the reactor runs."""
        self._reactor.callWhenRunning(self._open)

    def stop(self) -> None:
        """Close the session, and do not reconnect."""
        self.stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self.session is not None:
            self.session.close()
        self._close("the daemon is shutting down")

    def fault(self) -> str | None:
        """Return why there is no session; None if there is one."""
        return None if self._fault is None else f"Redis at {self._name}: {self._fault}"

    def drop(self, session: RedisSession, reason: str) -> None:
        """Close a session that is of no use any more, and open another."""
        if self.session is session:
            session.close()
            self._lost(reason)

    def refused(self, session: RedisSession, error: BaseException | None) -> None:
        """Drop a session if an error says that its server has become a read-only replica.

        A node that only subscribes must notice it as well as one that publishes.
        """
        if "READONLY" in str(error):
            self.drop(session, "it has become a read-only replica")

    def log_failure(self, failure: Failure) -> None:
        """Log an unexpected exception."""
        _log.failure(
            "unexpected error from Redis at {name}",
            failure=failure,
            event="broker_failed",
            name=self._name,
        )

    def _open(self) -> None:
        if not self.stopped:
            opening = self._open_session(self._lost)
            self._opening = opening.addCallbacks(self._opened, self._not_opened)
            self._opening.addErrback(self.log_failure).addBoth(self._attempted)

    def _attempted(self, result: object) -> object:
        if not self.tried.called:
            self.tried.callback(None)
        return result

    def _opened(self, session: RedisSession) -> None:
        self.session, self._fault, self._attempts = session, None, 0
        _log.info("connected to Redis at {name}", event="broker_back", name=self._name)
        self._on_open(session)

    def _not_opened(self, failure: Failure) -> None:
        if self.stopped:
            return
        if failure.check(RedisUnavailable, RedisMisconfigured) is None:
            self.log_failure(failure)
        self._retry(failure.getErrorMessage())

    def _lost(self, reason: str) -> None:
        self._close(reason)
        self._retry(reason)

    def _close(self, reason: str) -> None:
        self.session, self._fault = None, reason
        self._on_close()

    def _retry(self, reason: str) -> None:
        # Each reason is logged once, not once per attempt.
        if self._attempts == 0 or reason != self._fault:
            _log.warn(
                "Redis at {name} is unavailable: {reason}; "
                "publishing answers 503 until it is back (docs/scaling.md)",
                event="broker_away",
                name=self._name,
                reason=reason,
            )
        self._fault = reason
        self._call = self._reactor.callLater(_backoff(self._attempts), self._open)
        self._attempts += 1
