"""Registry of open connections, and the log lines of their opening and closing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel

from pushd.access.closing import TOKEN_EXPIRED, Closing, Ending
from pushd.access.counters import Traffic
from pushd.schedule.timeouts import TimerHeap

_log = Logger(namespace="pushd.access")


class Closable(Protocol):
    """pushd's end of an open connection: a WebSocket, an event stream or a long poll."""

    @property
    def transport(self) -> str:
        """``websocket``, ``sse``, ``longpoll`` or ``http_stream``."""

    def close_with(self, closing: Closing) -> Any:
        """Close the connection, giving this reason."""

    def end_subscriptions(self, matches: Callable[[str], bool], closing: Closing) -> int:
        """End the subscriptions to topics that match; return how many these are.

        :param closing: how to close a connection whose only purpose this was.
        """

    def __hash__(self) -> int:
        """Return a hash; each connection equals itself alone."""


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection, as the log and operators see it; only its traffic and topics change."""

    #: Number of the connection, counted from 1; unique in this process.
    id: int
    closable: Closable
    #: The client: ``address:port``, or the address that a trusted proxy gives.
    peer: str
    #: Path of the request, fit for a log.
    path: str
    #: Time of day at which it opened, in seconds since 1970.
    since: float
    #: The same time on the daemon's clock, which never goes backwards.
    started: float
    #: Subject of the client's token; None without a token.
    subject: str | None
    #: Messages and bytes until now, except for what ``Hub.flush_counters`` will add.
    traffic: Traffic
    #: How it is closed when the identity of its client expires.
    expires_with: Closing = TOKEN_EXPIRED
    #: The topics of a connection that may have many; None for others.
    topics: Sized | None = None


class Connections:
    """The open connections of a daemon: WebSockets, event streams and long polls.

    :param clock: where timers come from.
    :param now: the time of day, in seconds since 1970.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._clock = clock
        self.now = now
        self._open: dict[Closable, Connection] = {}
        self._ids = count(1)
        self._expiries: TimerHeap[Closable] = TimerHeap(
            clock, now=now, expired=lambda one: one.close_with(self._open[one].expires_with)
        )
        #: What open connections are closed with, once the daemon is stopping; None before.
        self.closing: Closing | None = None
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over a copy of the connections, the oldest first."""
        return iter(tuple(self._open.values()))

    def __contains__(self, closable: Closable) -> bool:
        return closable in self._open

    def add(
        self,
        closable: Closable,
        *,
        peer: str = "unknown",
        path: str = "",
        subject: str | None = None,
        traffic: Traffic | None = None,
    ) -> Connection:
        """Add a connection and give it an id; return the present entry if it has been added before.

        :param traffic: the counters of all that goes over the connection.
        """
        connection = self._open.get(closable)
        if connection is None:
            connection = Connection(
                id=next(self._ids),
                closable=closable,
                peer=peer,
                path=path,
                since=self.now(),
                started=self._clock.seconds(),
                subject=subject,
                traffic=traffic or Traffic(),
            )
            self._open[closable] = connection
        return connection

    def set_topics(self, closable: Closable, topics: Sized) -> None:
        """Let operators see how many topics an open connection has."""
        self._open[closable].topics = topics

    def remove(self, closable: Closable) -> None:
        """Remove a connection that is gone; does nothing if it is not open."""
        self._open.pop(closable, None)
        self._expiries.stop(closable)
        while self._emptied and not self._open:
            self._emptied.pop().callback(None)

    def close_at(self, closable: Closable, time: float, closing: Closing = TOKEN_EXPIRED) -> None:
        """Close a connection when its token expires; does nothing if it is not open.

        A later call, for a fresh token, replaces an earlier one.

        :param time: in seconds since 1970; infinite for never.
        """
        connection = self._open.get(closable)
        if connection is None:
            return
        connection.expires_with = closing
        if time == inf:
            self._expiries.stop(closable)
        else:
            self._expiries.start(closable, time)

    def age(self, connection: Connection) -> float:
        """Return for how many seconds a connection has been open."""
        return self._clock.seconds() - connection.started

    def find(self, closable: Closable) -> Connection | None:
        """Return the entry of an open connection; None if it is not open."""
        return self._open.get(closable)

    def get(self, id: int) -> Connection | None:
        """Return the open connection with this id, or None."""
        return next((one for one in self._open.values() if one.id == id), None)

    def stop_accepting(self, closing: Closing) -> Deferred[None]:
        """Let new connections be refused, and return a Deferred of the end of the last open one.

        :param closing: why; the caller closes the open connections with it.
        """
        self.closing = closing
        if not self._open:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied


def log_opened(connection: Connection) -> None:
    """Log that a connection opened."""
    emit_info(
        _log,
        connection.since,
        "#{connection} {peer} {path} opened",
        {
            "event": "opened",
            "connection": connection.id,
            "transport": connection.closable.transport,
            "peer": connection.peer,
            "path": connection.path,
            "subject": connection.subject,
        },
    )


_CLOSED = (
    "#{connection} {peer} {path} closed {code} after {seconds:.3f} s by {by}: {reason}; "
    "{messages_in} messages, {bytes_in} bytes in; {messages_out}, {bytes_out} out"
)
_CLOSED_UNTAKEN = _CLOSED.replace("{reason}", "{reason}, {bytes_untaken} bytes were not taken")


def log_closed(connections: Connections, connection: Connection, ending: Ending) -> None:
    """Log that a connection closed, and everything that answers "why was I cut?"."""
    traffic = connection.traffic
    emit_info(
        _log,
        connections.now(),
        _CLOSED_UNTAKEN if ending.untaken else _CLOSED,
        {
            "event": "closed",
            "connection": connection.id,
            "transport": connection.closable.transport,
            "peer": connection.peer,
            "path": connection.path,
            "subject": connection.subject,
            "code": ending.code,
            "seconds": connections.age(connection),
            "by": ending.by,
            "reason": ending.reason,
            "messages_in": traffic.messages_in,
            "bytes_in": traffic.bytes_in,
            "messages_out": traffic.messages_out,
            "bytes_out": traffic.bytes_out,
            "bytes_untaken": ending.untaken,
        },
    )


def emit_info(log: Logger, time: float, form: str, fields: dict[str, Any]) -> None:
    """Emit an event as ``Logger.info`` does, without its search through all log levels.

    :param time: of the event, in seconds since 1970.
    :param fields: of the event. They are not copied, and those of the log are added to them.
    """
    fields["log_logger"] = log
    fields["log_level"] = LogLevel.info
    fields["log_namespace"] = log.namespace
    fields["log_source"] = log.source
    fields["log_format"] = form
    fields["log_time"] = time
    log.observer(fields)
