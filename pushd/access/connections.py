"""Open connections: counted, listed, asked to leave; the log lines of their opening and end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel

from pushd.access.closing import TOKEN_EXPIRED, Closing, Ending
from pushd.access.counters import Traffic
from pushd.schedule.timeouts import TimerHeap


class Closable(Protocol):
    """Somebody who is here, and can be asked to leave."""

    @property
    def transport(self) -> str:
        """How they are connected: ``websocket``, ``sse`` or ``longpoll``."""

    def close_with(self, closing: Closing) -> Any:
        """Close in this way."""

    def __hash__(self) -> int:
        """Be one of many in a dict."""


@dataclass(slots=True, eq=False)
class Connection:
    """One who is here, as the log and operators know them; it does not change."""

    #: 1, 2, 3…: no other connection of this process has it, ever.
    id: int
    visitor: Closable
    #: Who it is: ``address:port``, or what a proxy says.
    peer: str
    #: The path that was asked for, fit for a log.
    path: str
    #: When it opened: the time of day, in seconds since 1970, and the time of the daemon's clock.
    since: float
    begun: float
    #: Whose token they came with; None without one.
    subject: str | None
    #: What went over it until now, but for direct writes since ``Hub.flush_counters``.
    traffic: Traffic


class Connections:
    """Everybody who listens or talks, from the beginning to the end of the connection.

    :param clock: where time-outs come from.
    :param now: the time of day, in seconds since 1970.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float]) -> None:
        self._clock = clock
        self.now = now
        self._open: dict[Closable, Connection] = {}
        self._ids = count(1)
        self._expiries: TimerHeap[Closable] = TimerHeap(
            clock, now=now, expired=lambda visitor: visitor.close_with(TOKEN_EXPIRED)
        )
        #: How everybody is being asked to leave, once the daemon stops.
        self.closing: Closing | None = None
        self._emptied: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """Those who are here, the one who is here longest first."""
        return iter(tuple(self._open.values()))

    def opened(
        self,
        visitor: Closable,
        *,
        peer: str = "unknown",
        path: str = "",
        subject: str | None = None,
        traffic: Traffic | None = None,
    ) -> Connection:
        """Count somebody in, and give them their id; who is here already keeps theirs.

        :param traffic: what counts all that goes over the connection.
        """
        connection = self._open.get(visitor)
        if connection is None:
            connection = Connection(
                id=next(self._ids),
                visitor=visitor,
                peer=peer,
                path=path,
                since=self.now(),
                begun=self._clock.seconds(),
                subject=subject,
                traffic=traffic or Traffic(),
            )
            self._open[visitor] = connection
        return connection

    def lost(self, visitor: Closable) -> None:
        """Count somebody out: the connection is gone."""
        self._open.pop(visitor, None)
        self._expiries.stop(visitor)
        while self._emptied and not self._open:
            self._emptied.pop().callback(None)

    def end_at(self, visitor: Closable, moment: float) -> None:
        """Close somebody when their token runs out, in seconds since 1970.

        A later call, for a fresh token, takes the place of an earlier one.
        """
        if visitor in self._open:
            self._expiries.start(visitor, moment)

    def age(self, connection: Connection) -> float:
        """How many seconds a connection is here."""
        return self._clock.seconds() - connection.begun

    def get(self, id: int) -> Connection | None:
        """The connection of this id, if it is still there."""
        return next((one for one in self._open.values() if one.id == id), None)

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


_log = Logger(namespace="pushd.access")

#: Who ended a connection.
US, PEER = "us", "peer"


def log_opened(connection: Connection) -> None:
    """Write the line that says who came."""
    _say(
        connection.since,
        "#{connection} {peer} {path} opened",
        event="opened",
        connection=connection.id,
        transport=connection.visitor.transport,
        peer=connection.peer,
        path=connection.path,
        subject=connection.subject,
    )


def log_ended(here: Connections, connection: Connection, ending: Ending) -> None:
    """Write the line that answers why somebody was cut."""
    traffic = connection.traffic
    _say(
        here.now(),
        "#{connection} {peer} {path} closed {code} after {seconds:.3f} s by {by}: {reason}; "
        "{messages_in} messages, {bytes_in} bytes in; {messages_out}, {bytes_out} out",
        event="closed",
        connection=connection.id,
        transport=connection.visitor.transport,
        peer=connection.peer,
        path=connection.path,
        subject=connection.subject,
        code=ending.code,
        seconds=here.age(connection),
        by=ending.by,
        reason=ending.reason,
        messages_in=traffic.messages_in,
        bytes_in=traffic.bytes_in,
        messages_out=traffic.messages_out,
        bytes_out=traffic.bytes_out,
    )


def _say(moment: float, form: str, **fields: object) -> None:
    """Write a line, as ``Logger.info`` does, which compares the level with all there are.

    :param moment: its time, in seconds since 1970.
    """
    fields.update(
        log_logger=_log,
        log_level=LogLevel.info,
        log_namespace=_log.namespace,
        log_source=_log.source,
        log_format=form,
        log_time=moment,
    )
    _log.observer(fields)
