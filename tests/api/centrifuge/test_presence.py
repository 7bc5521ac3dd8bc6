"""Presence of Centrifuge clients, and what they are told of joins and leaves."""

from __future__ import annotations

from typing import Any

from pushd.access.limits import Limits
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign

ROOMS = Rules([Rule(match="room", subscribe="anyone", presence=True)])


class PresenceTests(CentrifugeTestCase):
    """Rooms with presence."""

    def setUp(self) -> None:
        """Start a daemon with a room."""
        self.start(token_keys=secret_keys(), rules=ROOMS)

    def enter(self, user: str = "", **claims: Any) -> tuple[Client, str]:
        """Subscribe a client to the room; return it, and the name of its connection."""
        client = self.open()
        name = client.connect(token=sign({"sub": user, **claims}))["client"]
        client.ask("subscribe", channel="room")
        self.daemon.advance(0.2)
        return client, name

    def moves(self, client: Client) -> list[tuple[str, str]]:
        """Return who has joined and left, as a client was told."""
        return [
            (kind, push[kind]["info"]["client"])
            for push in client.pushes
            for kind in ("join", "leave")
            if kind in push
        ]

    def test_list(self) -> None:
        """Connections are listed with their users; users are counted once."""
        ann, one = self.enter("ann", info={"name": "Ann"})
        _, two = self.enter("ann", info={"name": "Ann"})
        _, three = self.enter("bob")
        info = {"user": "ann", "conn_info": {"name": "Ann"}}
        self.assertEqual(
            ann.ask("presence", channel="room")["presence"],
            {
                one: {"client": one, **info},
                two: {"client": two, **info},
                three: {"client": three, "user": "bob"},
            },
        )
        counts = {"num_clients": 3, "num_users": 2}
        self.assertEqual(ann.ask("presence_stats", channel="room"), counts)

    def test_leave(self) -> None:
        """A client that unsubscribes is gone at once, from the list and from the counts."""
        ann, _ = self.enter("ann")
        ann.ask("unsubscribe", channel="room")
        self.assertEqual(ann.ask("presence", channel="room"), {"presence": {}})
        counts = {"num_clients": 0, "num_users": 0}
        self.assertEqual(ann.ask("presence_stats", channel="room"), counts)

    def test_moves(self) -> None:
        """A client is told of each connection that joins or leaves, its own first."""
        ann, one = self.enter("ann")
        self.assertEqual(self.moves(ann), [("join", one)])
        other, two = self.enter("ann")
        self.assertEqual(self.moves(ann), [("join", two)])
        self.assertEqual(self.moves(other), [("join", two)])
        other.browser.leave()
        self.daemon.advance(0.2)
        self.assertEqual(self.moves(ann), [("leave", two)])
        ann.ask("unsubscribe", channel="room")
        self.enter("bob")
        self.assertEqual(self.moves(ann), [])

    def test_others(self) -> None:
        """Clients of other transports take part; those that unsubscribe hear nothing more."""
        ann, one = self.enter("ann")
        browser = self.daemon.connect("/topics/room?client=tab", subprotocols=["pushd.v1"])
        self.daemon.advance(0.2)
        self.assertEqual(self.moves(ann), [("join", one), ("join", "tab")])
        browser.leave()
        self.daemon.advance(0.2)
        self.assertEqual(self.moves(ann), [("leave", "tab")])

    def test_slow(self) -> None:
        """What happens while a client has no room is not told."""
        ann, _ = self.enter("ann")
        self.moves(ann)
        ann.browser.stall()
        self.publish("room", "x" * 500_000)
        self.enter("bob")
        ann.browser.resume()
        self.daemon.advance(0.2)
        self.assertEqual(self.moves(ann), [])

    def test_crowd(self) -> None:
        """If there are too many subjects, they are counted, and nothing is told."""
        self.start(token_keys=secret_keys(), rules=ROOMS, limits=Limits(max_present=1))
        ann, one = self.enter("ann")
        self.assertEqual(self.moves(ann), [("join", one)])
        self.enter("bob")
        self.daemon.advance(6)
        self.assertEqual(self.moves(ann), [])
        self.assertEqual(ann.error("presence", channel="room"), 106)
        counts = {"num_clients": 2, "num_users": 2}
        self.assertEqual(ann.ask("presence_stats", channel="room"), counts)

    def test_refused(self) -> None:
        """A channel without presence has none to ask for; a denied one is not asked about."""
        ann, _ = self.enter("ann")
        self.assertEqual(ann.error("presence", channel="other"), 108)
        self.assertEqual(ann.error("presence_stats", channel="a b"), 102)
        rules = Rules([Rule(match="room", presence=True)])
        self.start(token_keys=secret_keys(), rules=rules)
        self.assertEqual(self.connect().error("presence", channel="room"), 103)

    def test_protobuf(self) -> None:
        """In Protobuf, what is known of a client is JSON in bytes."""
        client = self.connect_protobuf(token=sign({"sub": "ann", "info": {"name": "Ann"}}))
        client.ask("subscribe", channel="room")
        self.daemon.advance(0.2)
        [push] = client.pushes
        self.assertEqual(push["join"]["info"]["conn_info"], b'{"name":"Ann"}')
        [info] = client.ask("presence", channel="room")["presence"].values()
        self.assertEqual((info["user"], info["conn_info"]), ("ann", b'{"name":"Ann"}'))
