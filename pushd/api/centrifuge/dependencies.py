"""What the connections of Centrifuge clients use and share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from pushd.access.authorization import Authorizer
from pushd.access.connections import Closable
from pushd.api.centrifuge.procedures import Procedures
from pushd.api.keep_alives import KeepAlives
from pushd.api.resource import DaemonState
from pushd.api.topic_access import TopicAccess
from pushd.schedule.timeouts import TimeoutQueue, TimerHeap
from pushd.topics.publication import check_topic

#: What stands for the user in the pattern of personal topics.
USER = "*"

# Seconds in which a client must send its first command.
_STALE = 15


class Expiring(Hashable, Protocol):
    """Something that a permission is for."""

    def expire(self) -> None:
        """End it, as the permission has ended."""


class Unconnected(Hashable, Protocol):
    """A connection whose client has sent no command yet."""

    def stale(self) -> None:
        """Close it."""


class Client(Protocol):
    """A connected client, as the HTTP API sees it."""

    @property
    def user(self) -> str:
        """The user that it belongs to; empty if that is not known."""

    @property
    def closable(self) -> Closable:
        """The connection."""

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel, if there is one."""

    def expire_at(self, time: float) -> None:
        """Let the connection end at a time, in seconds since 1970."""


class Session(Protocol):
    """A connection whose commands come by requests of their own."""

    def receive_apart(self, commands: bytes) -> None:
        """Carry out the commands in the body of a request."""


class CentrifugeDependencies:
    """The parts of the daemon that connections use.

    :param personal: the topic of each user, with a ``*`` for the user; empty for none.
    :param make_name: returns a random name that cannot be guessed.
    :param node: the name of this node.
    """

    def __init__(
        self,
        state: DaemonState,
        authorizer: Authorizer,
        access: TopicAccess,
        keep_alives: KeepAlives,
        clock: IReactorTime,
        *,
        personal: str,
        make_name: Callable[[], str],
        node: str,
        procedures: Procedures | None = None,
    ) -> None:
        self.state = state
        self.authorizer = authorizer
        self.access = access
        self.keep_alives = keep_alives
        self.clock = clock
        self.make_name = make_name
        self.node = node
        #: Answers procedure calls; None if nothing does.
        self.procedures = procedures
        self._personal = personal
        #: The connected clients of this node, by the names of their connections.
        self.clients: dict[str, Client] = {}
        #: Connections whose commands come by requests of their own, by their secret names.
        self.sessions: dict[str, Session] = {}
        #: When the permissions for single channels end.
        self.expiries: TimerHeap[Expiring] = TimerHeap(
            clock, now=authorizer.now, expired=lambda one: one.expire()
        )
        #: Connections whose first command has yet to come.
        self.unconnected: TimeoutQueue[Unconnected] = TimeoutQueue(
            clock, timeout=_STALE, expired=lambda one: one.stale()
        )

    def personal_topic(self, user: str) -> str | None:
        """Return the topic of a user; None if there is none, or no topic can have such a name."""
        if not (user and self._personal):
            return None
        try:
            return check_topic(self._personal.replace(USER, user))
        except ValueError:
            return None
