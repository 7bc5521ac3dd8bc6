"""Lets connections take part in the presence of the topics whose rules have it."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from pushd.access.connections import Closable, Connections
from pushd.access.tokens import Identity
from pushd.topics.presence import Attendance, Presence, PresenceList
from pushd.topics.publication import check_topic
from pushd.topics.rules import Rules


class Attendances:
    """Who takes part in what: rules, identities and connections on one side, presence on the other.

    :param connections: the open connections, with their numbers.
    """

    def __init__(self, presence: Presence, rules: Rules, connections: Connections) -> None:
        self.presence = presence
        self._rules = rules
        self._connections = connections

    def has(self, topic: str) -> bool:
        """Return whether a topic has presence, by its rule."""
        return self._rules.find(topic).presence

    def describe(self, topic: str) -> Deferred[PresenceList]:
        """Return who is present at a topic.

        Fails with ``Unavailable`` if other nodes cannot be asked. Raises ValueError if the topic is
        invalid or has no presence.
        """
        if not self.has(check_topic(topic)):
            raise ValueError(f"topic {topic} has no presence: its rule must say presence = true")
        return self.presence.describe(topic)

    def join(
        self, topic: str, closable: Closable, identity: Identity | None, client: str | None = None
    ) -> Attendance | None:
        """Let an open connection take part in a topic. Returns None if that has no presence.

        A long poll takes part only if the next one can be known to be of the same subject.

        :param client: how the client names its connection.
        """
        if not self.has(topic):
            return None
        subject = None if identity is None else identity.subject
        if closable.transport == "longpoll" and not (subject or client):
            return None
        connection = self._connections.find(closable)
        if connection is None:
            return None  # It has ended.
        info = None if identity is None else identity.info
        return self.presence.join(topic, connection.id, subject=subject, info=info, client=client)


class Participant:
    """One connection that takes part in the presence of each topic that it subscribes to."""

    __slots__ = ("_attendances", "_client", "_closable", "_identity")

    def __init__(
        self,
        attendances: Attendances,
        closable: Closable,
        identity: Identity | None,
        client: str | None = None,
    ) -> None:
        self._attendances = attendances
        self._closable = closable
        self._identity = identity
        self._client = client

    def join(self, topic: str) -> Attendance | None:
        """Take part in a topic, until the attendance is ended. Returns None without presence."""
        return self._attendances.join(topic, self._closable, self._identity, self._client)

    def describe(self, topic: str) -> Deferred[PresenceList]:
        """Return who is present at a topic; see ``Attendances.describe``."""
        return self._attendances.describe(topic)
