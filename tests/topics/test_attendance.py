"""Attendances: which connections take part in the presence of which topics, and as whom."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import Closing
from pushd.access.connections import Connections
from pushd.access.limits import Limits
from pushd.access.tokens import Identity
from pushd.topics.attendance import Attendances, Participant
from pushd.topics.presence import Presence
from pushd.topics.rules import Rule, Rules


class FakeConnection:
    """An open connection."""

    def __init__(self, transport: str) -> None:
        self.transport = transport

    def close_with(self, closing: Closing) -> None:
        """Do nothing."""


class AttendancesTests(SynchronousTestCase):
    """What ``join`` and ``describe`` allow."""

    def setUp(self) -> None:
        """Make attendances with a rule for one topic."""
        clock = Clock()
        self.connections = Connections(clock, clock.seconds)
        presence = Presence(clock, Limits(), "n", None)
        self.addCleanup(presence.stop)
        rules = Rules([Rule(match="t", presence=True)])
        self.attendances = Attendances(presence, rules, self.connections)

    def connect(self, transport: str = "sse") -> FakeConnection:
        """Open a connection."""
        connection = FakeConnection(transport)
        self.connections.add(connection)
        return connection

    def names(self) -> list[tuple[str | None, tuple[str, ...], object]]:
        """Return who is present."""
        subjects = self.successResultOf(self.attendances.describe("t")).subjects
        assert subjects is not None
        return [(one.subject, one.connections, one.info) for one in subjects]

    def test_identity(self) -> None:
        """The subject and the info are those of the identity, the number that of the connection."""
        ann = Identity(subject="ann", expires=9, info={"name": "Ann"})
        self.attendances.join("t", self.connect(), ann)
        self.attendances.join("t", self.connect(), Identity(subject="", expires=9))
        self.attendances.join("t", self.connect(), None, "tab")
        self.assertEqual(
            self.names(),
            [(None, ("n.2",), None), (None, ("tab",), None), ("ann", ("n.1",), {"name": "Ann"})],
        )

    def test_not_present(self) -> None:
        """Without presence, from a poll without a name, and after the end, none takes part."""
        self.assertIsNone(self.attendances.join("u", self.connect(), None))
        self.assertIsNone(self.attendances.join("t", self.connect("longpoll"), None))
        self.assertIsNone(self.attendances.join("t", FakeConnection("sse"), None))
        self.assertEqual(self.names(), [])

    def test_participant(self) -> None:
        """A participant joins the topics of its connection, and can ask who is present."""
        participant = Participant(self.attendances, self.connect(), None, "tab")
        self.assertIsNone(participant.join("u"))
        attendance = participant.join("t")
        assert attendance is not None
        self.assertEqual(self.successResultOf(participant.describe("t")).connections, 1)
        attendance.leave()

    def test_refused(self) -> None:
        """A topic that is invalid or has no presence cannot be described."""
        for topic in ("a//b", "u"):
            with self.assertRaises(ValueError):
                self.attendances.describe(topic)
