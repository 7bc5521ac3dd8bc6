"""A door: what answers those who come, who is here, and how they leave at the end."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from pushd.access.admission import Admission
from pushd.access.limits import Limits
from pushd.protocols.http.access_log import AccessLog
from pushd.protocols.http.channel import KEEP_ALIVE, LINGER, REQUEST_TIMEOUT, STALL_TIMEOUT, Channel
from pushd.protocols.http.guard import SitePolicy
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.response import AnswerResource
from pushd.protocols.transport import check_requirements
from pushd.schedule.timeouts import TimeoutQueue

# How many may wait for the 503 that tells them that all places are taken.
_WAITING_ROOM = 64


class _Nobody(Protocol):
    """What a connection gets that there is no place for at all: TLS can't do with None."""

    transport: Any

    def connectionMade(self) -> None:
        """Close it, in order: a reset could fail the client's very attempt to connect."""
        self.transport.loseConnection()


class PushdSite(AccessLog, Site):
    """A Site that asks one function what answers a request.

    :param find: gives the resource for a request, or raises.
    :param entrance: what is asked before.
    :param reactor: where time comes from.
    """

    noisy = False
    # Twisted's own, which may turn out to speak HTTP/2, is left out on purpose.
    protocol: Any = Channel

    def __init__(
        self, find: Callable[[Any], IResource], policy: SitePolicy, reactor: IReactorTime
    ) -> None:
        # The deadlines below replace the time-out that each byte would reset.
        super().__init__(Resource(), timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        self._find = find
        self.policy = policy
        check_requirements()
        self.draining = False
        #: Whether a head that arrives in one piece is read at once.
        self.reads_whole_heads = Channel.can_handle()
        # The connections that speak HTTP, and who waits until there are none.
        self._here: set[Channel] = set()
        self._emptied: list[Deferred[None]] = []
        self._waiting_room = Admission(
            Limits(max_connections=_WAITING_ROOM, max_per_address=_WAITING_ROOM), policy.proxies
        )
        self.requests = TimeoutQueue(reactor, timeout=REQUEST_TIMEOUT, expired=Channel.time_out)
        self.idle = TimeoutQueue(reactor, timeout=KEEP_ALIVE, expired=Channel.loseConnection)
        self.stalled = TimeoutQueue(reactor, timeout=STALL_TIMEOUT, expired=Channel.give_up)
        self.lingering = TimeoutQueue(reactor, timeout=LINGER, expired=Channel.abort)
        self.deadlines: tuple[TimeoutQueue[Any], ...] = (
            self.requests,
            self.idle,
            self.stalled,
            self.lingering,
        )

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the channel for a connection, if there is a place for it."""
        try:
            return self._make_channel(addr)
        except Exception:
            # Twisted would log it without the address, and put off the connections behind this one.
            self.log_connection_failure("unknown" if addr is None else peer_name(addr))
            return _Nobody()

    def _make_channel(self, addr: IAddress | None) -> Any:
        address = getattr(addr, "host", None)
        ticket = self.policy.admission.admit(address)
        unwelcome = ticket is None
        if unwelcome:
            ticket = self._waiting_room.admit(None)
            if ticket is None:
                self.log_refusal(str(address), 503, "all places are taken, to wait as well")
                return _Nobody()
        # Not by the one of twisted.web, which sets in each what all have in common.
        channel = self.protocol()
        channel.factory = channel.site = self
        channel.ticket, channel.unwelcome = ticket, unwelcome
        return channel

    def getResourceFor(self, request: Any) -> IResource:
        """Ask the guard, then for the resource."""
        refused = self.policy.guard(request)
        if refused is not None:
            self.count_refusal(refused.status)
            return AnswerResource(refused)
        return self._find(request)

    def enter(self, channel: Channel) -> None:
        """Count a connection in."""
        self._here.add(channel)

    def leave(self, channel: Channel) -> None:
        """Count a connection out: it is gone, or speaks WebSocket from now on."""
        self._here.discard(channel)
        while self._emptied and not self._here:
            self._emptied.pop().callback(None)

    def drain(self) -> Deferred[None]:
        """Close the connections that nobody uses, and the others once they have their answer.

        One on which no request has come yet is not idle: its request may be on the way, see
        ``close_silent``. The Deferred fires when there are none.
        """
        self.draining = True
        for channel in list(self.idle):
            channel.loseConnection()
        if not self._here:
            return succeed(None)
        emptied: Deferred[None] = Deferred(self._emptied.remove)
        self._emptied.append(emptied)
        return emptied

    def close_silent(self) -> None:
        """Close the connections on which nobody waits for an answer."""
        for channel in list(self._here):
            if not channel.requests:
                channel.loseConnection()

    def getContentFile(self, length: int | None) -> BytesIO:
        """Keep a body in memory: it is bounded, and descriptors are dearer."""
        return BytesIO()

    def acceptableProtocols(self) -> list[bytes]:
        """Speak HTTP/1.1 only over TLS: a WebSocket can't take over an HTTP/2 connection."""
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """Do nothing: there is no log file to open, and no date to keep for it each second."""

    def stopFactory(self) -> None:
        """Do nothing, likewise."""
