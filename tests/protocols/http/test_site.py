"""A site: its limits on connections, its guard, and what twisted.web sets up with it."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import capturedLogs

from pushd.protocols.http.site import PushdSite
from pushd.testing import Daemon
from tests.support.channel_case import GET, ChannelTestCase
from tests.support.peer import Peer, handshake


def site_of(daemon: Daemon) -> PushdSite:
    """Return the site of a daemon's public port."""
    site = daemon.clock.tcpServers[0][1]
    assert isinstance(site, PushdSite)
    return site


class FactoryTests(ChannelTestCase):
    """The site as a factory of protocols."""

    def test_no_timer(self) -> None:
        """A site that starts and stops opens no log file and sets no timer to update its date."""
        daemon = Daemon()
        site = site_of(daemon)
        site.doStart()
        self.assertEqual(daemon.pending_calls, [])
        site.doStop()

    def test_only_http_1_over_tls(self) -> None:
        """HTTP/2 is not offered over TLS: a WebSocket could not take over its connection."""
        self.assertEqual(site_of(self.daemon).acceptableProtocols(), [b"http/1.1", b"http/1.0"])


class LimitTests(ChannelTestCase):
    """A site whose connection limit is reached."""

    def settings(self) -> dict[str, Any]:
        """Allow two connections."""
        return {"max_connections": 2}

    def test_full(self) -> None:
        """A connection beyond the limit gets a 503; a later one is served when a slot is free."""
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

    def test_slots_are_released(self) -> None:
        """However a connection ends, its slot is free again."""
        for leave in (Peer.vanish, Peer.finish, lambda peer: peer.advance(*[10] * 10)):
            for data in (b"", GET, GET[:20], b"nonsense\r\n", handshake("/hello/")):
                for _ in range(3):
                    peer = self.send(data)
                    leave(peer)
                    self.assertFalse(peer.server.connected)
        self.assertEqual(self.send(GET).body, b"hello")

    def test_queue(self) -> None:
        """At most 64 connections may wait for their 503; more are closed at once."""
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

    def test_share_of_the_queue(self) -> None:
        """One address can take a quarter of the queue, so that others still get their 503."""
        self.send(), self.send()
        site = site_of(self.daemon)

        def connect(host: str) -> Any:
            return site.buildProtocol(IPv4Address("TCP", host, 1))

        waiting = [connect("192.0.2.1") for _ in range(16)]
        for channel in waiting:
            self.assertTrue(channel.over_limit)
        self.assertNotIsInstance(connect("192.0.2.1"), type(waiting[0]))
        self.assertTrue(connect("192.0.2.2").over_limit)
        waiting.pop().slot.release()
        self.assertTrue(connect("192.0.2.1").over_limit)

    def test_failure_gives_the_slot_back(self) -> None:
        """A connection whose channel cannot be made does not count."""

        def fail() -> None:
            raise ZeroDivisionError

        site = site_of(self.daemon)
        failing = self.patch(site, "protocol", fail)
        for _ in range(3):
            self.assertIsNotNone(self.send().lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)
        failing.restore()
        self.assertEqual(self.send(GET).body, b"hello")

    def test_failure(self) -> None:
        """A connection whose channel cannot be made is logged with its address, and closed."""

        def fail(address: object) -> None:
            raise ZeroDivisionError

        site = site_of(self.daemon)
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
    """Requests that the guard refuses."""

    def test_refused(self) -> None:
        """A request that the guard refuses reaches no view; its connection may send another one."""
        peer = self.send(handshake("/hello/", "Origin: https://elsewhere.example"))
        self.assertEqual(peer.head.split(" ")[1], "403")
        self.assertEqual(self.requests, [])
        peer.received.clear()
        peer.send(GET)
        self.assertEqual(peer.body, b"hello")
