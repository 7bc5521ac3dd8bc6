"""The two lines of every connection in the log: that it opened, and how and why it ended."""

from __future__ import annotations

from typing import NamedTuple

from twisted.logger import Logger, LogLevel

from pushd.connections import Connection, Connections

_log = Logger()

#: Who ended a connection.
US, PEER = "us", "peer"


class Ending(NamedTuple):
    """How a connection ended: the code of a WebSocket's Close frame, who ended it, and why.

    SSE has no codes; it borrows those of WebSocket.
    """

    code: int
    by: str
    reason: str


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
