"""Long polls that follow each other on one connection, and differ in the id alone.

A client that polls sends the same head again and again, with the id that the last answer gave. So
the head that must come next is known once a poll is answered. If it is that, byte for byte, and no
setting was reloaded meanwhile, everything that was found out about the last one holds: it is not
parsed, routed and checked again, and its request object is used again. The answer leaves in one
write, and is made once for all polls that a publication answers. An answer and the next poll take
a fifth of the CPU.

This is a part of the fast path "whole heads". Any other head, and any other answer, goes the plain
way, by ``TopicResource`` and ``write_response``: so does the first poll with an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import OK

from pushd.access.connections import Connections
from pushd.access.counters import TrafficTotals
from pushd.access.tokens import Identity
from pushd.api.subscribe.longpoll import LongPoll
from pushd.protocols.http.request import path_of
from pushd.protocols.http.response import JSON_HEADERS
from pushd.protocols.http.strict import SHARED_HEADERS, date_of
from pushd.schedule.turns import Turns
from pushd.topics.hub import Hub
from pushd.topics.publication import Id
from pushd.topics.rules import Rules

# The longest response that is kept for the next poll that gets the same, in bytes.
_MAX_KEPT = 1 << 18


class RepeatedPolls:
    """What the polls of all clients share, and the response that was made last.

    :param turns: see ``LongPoll``.
    :param rules: every reload replaces them, whatever setting it changes.
    """

    def __init__(
        self, clock: IReactorTime, turns: Turns, hub: Hub, connections: Connections, rules: Rules
    ) -> None:
        self.clock = clock
        self.turns = turns
        self.hub = hub
        self.connections = connections
        self.rules = rules
        self._response, self._length = b"", 0
        # What it was made of.
        self._made_of: tuple[object, ...] = ()

    def start(
        self,
        request: Any,
        start: PollStart,
        identity: Identity | None,
        totals: TrafficTotals,
    ) -> bool:
        """Start a poll that may be repeated; return False, and do nothing, if that can't be known.

        Its topic must have no presence, and what its client may do must follow from the rules and
        its token alone.
        """
        head: bytes = request.channel.whole
        target, id = head[: head.find(b" HTTP/1.1\r\n")], str(start.after)
        if not request.channel.persistent or request.slot is not None:
            return False
        if request.channel.transport is not request.transport:
            return False  # Something in between looks at each request, as the demo does.
        if identity is not None and self.connections.now() >= identity.expires:
            return False  # Its connection may last a little longer, because clocks differ.
        if target.count(b"after=") != 1 or b"Last-Event-Id" in request.requestHeaders:
            return False
        for colon in (":", "%3A"):
            before, spelled, _ = target.partition(f"after={id.replace(':', colon)}".encode())
            if spelled:
                around = head[: len(before) + len(b"after=")], head[len(before) + len(spelled) :]
                repeat = _Repeat(self, request, start, identity, totals, *around)
                repeat.colon = colon
                # Kept for the request's life, and so for all polls: only plain ends call it.
                request.notifyFinish().addBoth(repeat.end)
                repeat.begin(start.after)
                return True
        return False

    def respond(self, poll: LongPoll, lines: bytes) -> tuple[bytes, int]:
        """Return the response to a poll, and the length of its body.

        :param lines: further lines of the head, behind the first.
        """
        second = int(self.connections.now())
        made_of = (second, lines, *poll.made_of)
        if made_of == self._made_of:
            return self._response, self._length
        body = poll.body()
        response = b"%b%b%b%b" % (_STATUS, lines, _rest_of_head(second, len(body)), body)
        if poll.made_of and len(response) <= _MAX_KEPT:
            self._made_of, self._response, self._length = made_of, response, len(body)
        return response, len(body)


@dataclass(frozen=True, slots=True)
class PollStart:
    """What a poll asks for."""

    topic: str
    after: Id
    wait: float
    format_json: bool


class _Repeat:
    """The polls of one client, one after the other: it is what its channel expects between them.

    :param before: the bytes of the head before the id.
    :param behind: the bytes behind it.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_channel",
        "_identity",
        "_last",
        "_lines",
        "_path",
        "_poll",
        "_request",
        "_shared",
        "_start",
        "_totals",
        "_version",
        "colon",
    )

    def __init__(
        self,
        shared: RepeatedPolls,
        request: Any,
        start: PollStart,
        identity: Identity | None,
        totals: TrafficTotals,
        before: bytes,
        behind: bytes,
    ) -> None:
        self._shared = shared
        self._request = request
        self._channel = request.channel
        self._start = start
        self._identity = identity
        self._totals = totals
        self._before = before
        self._behind = behind
        #: How the client spells the colon of an id.
        self.colon = ":"
        self._version = shared.rules.version
        self._path = path_of(request)
        # Lines that let a page of another origin read the response.
        self._lines = b"".join(
            b"%b: %b\r\n" % (name, value)
            for name, values in request.responseHeaders.getAllRawHeaders()
            for value in values
        )
        # The poll that waits, or the id that the last one was answered with.
        self._poll: LongPoll | None = None
        self._last = start.after

    def begin(self, after: Id) -> None:
        """Subscribe, as a connection of its own."""
        shared, start, request = self._shared, self._start, self._request
        poll = self._poll = LongPoll(
            request, shared.clock, shared.turns, start.wait, format_json=start.format_json
        )
        poll.repeat = self
        identity, connections = self._identity, shared.connections
        request.connection = connections.add(
            poll,
            peer=request.peer,
            path=self._path,
            subject=None if identity is None else identity.subject,
            traffic=poll.traffic,
        ).id
        if identity is not None:
            connections.close_at(poll, identity.expires, identity.closing)
        request.end_waiting = poll.end_waiting
        self._totals.add(poll.transport, poll.traffic)
        poll.start(shared.hub, start.topic, after)

    def end(self, _: object = None) -> None:
        """End the poll, as its request is finished or its client has left."""
        poll, self._poll = self._poll, None
        assert poll is not None
        poll.forget()
        # Or the two would keep each other until garbage is collected.
        poll.repeat = None
        del self._request.end_waiting
        self._shared.connections.remove(poll)
        self._totals.remove(poll.transport, poll.traffic)

    # What the poll calls

    def answer(self, poll: LongPoll) -> None:
        """Write the response, and expect the next poll."""
        request, channel = self._request, self._channel
        response, length = self._shared.respond(poll, self._lines)
        request.code, request.sentLength = OK, length
        channel.write_whole(response)
        channel.site.log(request)
        self._last = poll.last
        self.end()
        channel.expect_after(request, self)

    # What the channel calls

    def take(self, data: bytes) -> bool:
        """Start the next poll; return False if the data is anything else."""
        id = f"{self._last.epoch}{self.colon}{self._last.offset}".encode()
        if data != b"%b%b%b" % (self._before, id, self._behind) or not self._still_holds():
            return False
        request = self._request
        request.begin_again()
        try:
            self.begin(self._last)
        except Exception:
            request.processingFailed(Failure())
        return True

    def forget(self) -> None:
        """Let go of the request: something else has come, or the connection has ended."""
        self._request.notifications.clear()
        self._request = self._channel = None

    def _still_holds(self) -> bool:
        """Return whether the same head would be answered in the same way as before."""
        connections, identity = self._shared.connections, self._identity
        return (
            self._version == self._shared.rules.version
            and connections.closing is None
            and (identity is None or connections.now() < identity.expires)
        )


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


# The head of each response is the same as that of a plain answer.
_STATUS = b"HTTP/1.1 200 OK\r\n"
_BEGINNING = _lines(JSON_HEADERS)
_END = b"".join(b"%b: %b\r\n" % (name.title(), text) for name, text in SHARED_HEADERS.items())


@lru_cache(maxsize=64)
def _rest_of_head(second: int, length: int) -> bytes:
    """Return the head of a response behind its first lines.

    :param second: the time of day, in seconds since 1970.
    """
    date = date_of(second)
    return b"%bContent-Length: %d\r\nDate: %b\r\n%b\r\n" % (_BEGINNING, length, date, _END)
