"""A door: its places, its guard, and what it opens and closes with."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs

from pushd.protocols.http.channel import Premises
from pushd.protocols.http.site import PushdSite
from pushd.protocols.http.strict import Refusing
from pushd.testing.daemon import Daemon
from tests.channel_case import GET, ChannelTestCase
from tests.peer import Peer, handshake


class DoorTests(ChannelTestCase):
    def test_no_clock_that_ticks(self) -> None:
        """A door that opens and closes has no log file, and no date to keep for it."""
        daemon = Daemon()
        door: Any = daemon.clock.tcpServers[0][1]
        door.doStart()
        self.assertEqual(daemon.pending_calls, [])
        door.doStop()

    def test_premises(self) -> None:
        """A door is all that a connection needs of one."""
        door: object = self.daemon.clock.tcpServers[0][1]
        assert isinstance(door, PushdSite)
        premises: Premises = door
        for name in (*Premises.__annotations__, *Refusing.__annotations__):
            self.assertTrue(hasattr(premises, name), name)

    def test_only_http_1_over_tls(self) -> None:
        """HTTP/2 is not offered: a WebSocket could not take its connection over."""
        door: Any = self.daemon.clock.tcpServers[0][1]
        self.assertEqual(door.acceptableProtocols(), [b"http/1.1"])


class PlacesTests(ChannelTestCase):
    def settings(self) -> dict[str, Any]:
        """Let there be two connections."""
        return {"max_connections": 2}

    def test_full(self) -> None:
        """Who finds no place is told so, in HTTP, and may come back when one is free."""
        first, second = self.send(GET), self.send(handshake("/hello/"))
        self.requests.clear()
        for data in (GET, handshake("/hello/")):
            third = self.send(data[:20], data[20:])
            self.assert_refused(third, 503)
            self.assertIn("\r\nRetry-After: 5\r\n", third.head)
        third = self.send(b"\r\n")
        self.assertIsNone(third.lost)
        third.send(GET)
        self.assertEqual(third.received.count(b"HTTP/1.1 503 "), 1)
        first.vanish()
        self.assertEqual(self.send(GET).body, b"hello")
        second.vanish()

    def test_places_are_given_back(self) -> None:
        """However a connection ends, its place is free again."""
        for leave in (Peer.vanish, Peer.finish, lambda peer: peer.advance(*[10] * 10)):
            for data in (b"", GET, GET[:20], b"nonsense\r\n", handshake("/hello/")):
                for _ in range(3):
                    peer = self.send(data)
                    leave(peer)
                    self.assertFalse(peer.server.connected)
        self.assertEqual(self.send(GET).body, b"hello")

    def test_waiting_room(self) -> None:
        """Those who wait to be told so are few: beyond them the connection is closed at once."""
        self.send(), self.send()
        waiting = [self.send() for _ in range(64)]
        self.assertEqual([peer.lost for peer in waiting], [None] * 64)
        for tls in (False, True):
            late = Peer(self.daemon, tls=tls)
            self.assertIsNotNone(late.lost)
            self.assertEqual(late.received, b"")
        waiting[0].vanish()
        self.assertIsNone(self.send().lost)
        waiting[1].send(GET)
        self.assertIn(" 503 ", waiting[1].head)

    def test_failure(self) -> None:
        """A connection whose channel cannot be made is logged with its address, and closed."""

        def fail(address: object) -> None:
            raise ZeroDivisionError

        site: Any = self.daemon.clock.tcpServers[0][1]
        self.patch(site.policy.admission, "admit", fail)
        with capturedLogs() as events:
            peer = self.send()
            unknown = site.buildProtocol(None)
        self.assertIsNotNone(peer.lost)
        self.assertIsNotNone(unknown)
        self.assertEqual([event["event"] for event in events], ["connection_failed"] * 2)
        self.assertRegex(events[0]["peer"], r"^127\.0\.0\.1:\d+$")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class GuardTests(ChannelTestCase):
    def test_before_the_door(self) -> None:
        """What the guard turns away reaches no view, and its connection goes on."""
        peer = self.send(handshake("/hello/", "Origin: https://elsewhere.example"))
        self.assertEqual(peer.head.split(" ")[1], "403")
        self.assertEqual(self.requests, [])
        peer.received.clear()
        peer.send(GET)
        self.assertEqual(peer.body, b"hello")
