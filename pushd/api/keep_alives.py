"""Keep-alives: sent so that proxies keep a silent connection, and clients see that it lives."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from pushd.errors import BadRequest
from pushd.protocols.json_format import to_json
from pushd.protocols.websocket.frames import message
from pushd.protocols.websocket.socket import WebSocket
from pushd.schedule.timeouts import TimeoutQueue

#: Seconds from one comment of an event stream to the next, as proxies close silent connections; a
#: client cannot ask for a longer time between two heartbeats.
KEEP_ALIVE_INTERVAL = 25

_WHOLE_NUMBER = re.compile(r"[0-9]{1,2}")


class KeptAlive(Hashable, Protocol):
    """A connection that is kept alive."""

    def keep_alive(self) -> None:
        """Send a sign of life, unless data waits, and restart the time-out."""


class KeepAlives:
    """Time-outs of the connections that are kept alive, by their interval.

    Each interval has one queue, so that thousands of connections need one timer, and get their
    signs of life in portions.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._queues: dict[int, TimeoutQueue[KeptAlive]] = {
            interval: TimeoutQueue(clock, timeout=interval, expired=_keep_alive)
            for interval in range(1, KEEP_ALIVE_INTERVAL + 1)
        }

    def every(self, interval: int) -> TimeoutQueue[KeptAlive]:
        """Return the queue of an interval, in seconds."""
        return self._queues[interval]


class WebSocketHeartbeat:
    """Heartbeats over one WebSocket that speaks ``pushd.v1``.

    A browser does not show pings to the page, so a page cannot see that they have stopped.

    :param keep_alives: gives the time.
    :param interval: seconds from one heartbeat to the next.
    """

    __slots__ = ("_frame", "_queue", "_websocket")

    def __init__(self, websocket: WebSocket, keep_alives: KeepAlives, interval: int) -> None:
        self._websocket = websocket
        self._queue = keep_alives.every(interval)
        self._frame = _frame(interval)

    def keep_alive(self) -> None:
        """Send a heartbeat, now and after each interval; while data waits, that is the sign."""
        self._queue.start(self)
        websocket = self._websocket
        if not (websocket.is_closed() or websocket.send_queue.paused):
            wire = websocket.wire
            # As with pings, its bytes count, and it is no message of the conversation.
            wire.traffic.bytes_out += len(self._frame)
            wire.push_frames(self._frame)

    def stop(self) -> None:
        """Send no more."""
        self._queue.stop(self)


def heartbeat_event(interval: int) -> bytes:
    """Return the event of a heartbeat; it has no id, as that would become the client's last id."""
    return f"event: heartbeat\ndata: {interval}\n\n".encode()


def read_heartbeat(given: str | None) -> int | None:
    """Read the interval that a client asks for, or None if it is absent. Raises BadRequest."""
    if given is None:
        return None
    interval = int(given) if _WHOLE_NUMBER.fullmatch(given) else 0
    if not 1 <= interval <= KEEP_ALIVE_INTERVAL:
        rule = f"heartbeat must be a whole number of seconds from 1 to {KEEP_ALIVE_INTERVAL}"
        raise BadRequest(rule, "heartbeat")
    return interval


@cache
def _frame(interval: int) -> bytes:
    """Return the frame of a heartbeat: not compressed, so that all connections take the same."""
    return message(to_json({"heartbeat": interval}).encode(), binary=False)


def _keep_alive(connection: KeptAlive) -> None:
    connection.keep_alive()
