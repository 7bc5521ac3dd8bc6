"""The site of a port: makes the channel of each connection, and finds what answers a request."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site

from pushd.access.admission import Admission, Slot
from pushd.access.limits import Limits
from pushd.protocols.http.access_log import AccessLog
from pushd.protocols.http.at_once import AtOnce
from pushd.protocols.http.channel import Channel, HttpConnections
from pushd.protocols.http.policy import SitePolicy
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.response import AnswerResource
from pushd.protocols.twisted_internals import check_requirements, lose

# The most connections beyond the limit that may wait for their 503 at once, in all and from one
# client address.
_MAX_REFUSED = 64
_MAX_REFUSED_PER_ADDRESS = 16


class ImmediateClose(Protocol):
    """Protocol of a connection that is closed at once: with TLS, None is not allowed for it."""

    transport: Any

    def connectionMade(self) -> None:
        """Close in order: a reset could fail the client's attempt to connect.

        At once, as far as possible: descriptors must not run out while a crowd is turned away.
        """
        lose(self.transport)


class PushdSite(AccessLog, Site):
    """The public port's or the control port's site for twisted.web.

    :param find: returns the resource for a request, or raises.
    :param policy: the checks that come first.
    :param reactor: for time-outs.
    :param at_once: answers what can be answered at once. The policy must trust no proxies,
        share nothing with pages, and slow no client.
    """

    noisy = False
    # Not Twisted's own, which may choose HTTP/2.
    protocol: Any = Channel

    def __init__(
        self,
        find: Callable[[Any], IResource],
        policy: SitePolicy,
        reactor: IReactorTime,
        at_once: AtOnce | None = None,
    ) -> None:
        # HttpConnections replaces the time-out of twisted.web, which starts again with each byte.
        super().__init__(Resource(), timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        check_requirements()
        self._find = find
        self.policy = policy
        self.at_once = at_once
        #: The open connections that speak HTTP.
        self.connections = HttpConnections(
            reactor, policy.memory, policy.limits, freed_last=policy.freed_last
        )
        self._beyond_limit = Admission(
            Limits(max_connections=_MAX_REFUSED, max_per_address=_MAX_REFUSED_PER_ADDRESS),
            policy.proxies,
        )

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make the channel of a connection, or what closes it if there are too many."""
        try:
            return self._make_channel(addr)
        except Exception:
            # Twisted would log it without the address, and delay the connections behind this one.
            self.log_connection_failure("unknown" if addr is None else peer_name(addr))
            return ImmediateClose()

    def admit_unknown(self) -> Slot | None:
        """Admit a connection whose client is not known yet; return None if it must be closed.

        The slot must be released before ``buildProtocol`` is called with the client's address.
        """
        return self.policy.admission.admit(None) or self._beyond_limit.admit(None)

    def _make_channel(self, addr: IAddress | None) -> Any:
        address = getattr(addr, "host", None)
        self.policy.throttle.count(address or "unix")
        slot = self.policy.admission.admit(address)
        over_limit = ""
        if slot is None:
            over_limit = self.policy.admission.reached()
            slot = self._beyond_limit.admit(address)
            if slot is None:
                self.log_refusal(str(address), 503, f"{over_limit}; the 503 queue is full, too")
                return ImmediateClose()
        try:
            # Not by Site.buildProtocol, which sets in each channel what all have in common.
            channel = self.protocol()
        except BaseException:
            slot.release()
            raise
        channel.factory = channel.site = self
        channel.connections = self.connections
        channel.slot, channel.over_limit = slot, over_limit
        channel.client = addr
        return channel

    def getResourceFor(self, request: Any) -> IResource:
        """Return the resource for a request, or the guard's refusal."""
        refused = self.policy.guard(request)
        if refused is not None:
            self.count_refusal(refused.status)
            return AnswerResource(refused)
        self.policy.share(request)
        return self._find(request)

    def getContentFile(self, length: int | None) -> BytesIO:
        """Keep a body in memory: its size is limited, and a file would take a descriptor."""
        return BytesIO()

    def acceptableProtocols(self) -> list[bytes]:
        """Agree on HTTP/1 only over TLS: a WebSocket cannot take over an HTTP/2 connection."""
        return [b"http/1.1", b"http/1.0"]

    def startFactory(self) -> None:
        """Do nothing: there is no log file to open, and no date to update each second."""

    def stopFactory(self) -> None:
        """Do nothing, likewise."""
