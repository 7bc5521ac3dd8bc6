"""A door at an endpoint: opened once, and closed when everybody has their answer."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.site import PushdSite
from pushd.service.listening import PortService, prepare
from pushd.testing.daemon import Daemon


def door_of(daemon: Daemon) -> PushdSite:
    """Give the door that a daemon opens to everybody."""
    door = daemon.clock.tcpServers[0][1]
    assert isinstance(door, PushdSite)
    return door


class DoorServiceTests(SynchronousTestCase):
    def test_backlog(self) -> None:
        """Many may wait to be let in, unless the endpoint says how many."""
        daemon = Daemon()
        for endpoint, backlog in (("tcp:1", 2048), ("tcp:1:backlog=7", 7)):
            reactor = MemoryReactorClock()
            PortService(
                reactor, endpoint, door_of(daemon), message="{url}", option="--listen"
            ).startService()
            self.assertEqual(reactor.tcpServers[0][2], backlog)

    def test_systemd_without_a_socket(self) -> None:
        """A socket that systemd was to pass and did not ends the process, with one line."""
        daemon = Daemon()
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            door = PortService(
                daemon.clock, endpoint, door_of(daemon), message="{url}", option="--listen"
            )
            with self.assertRaises(SystemExit) as raised:
                door.privilegedStartService()
            self.assertEqual(
                raised.exception.code,
                f"pushd: --listen {endpoint}: "
                "systemd passed no such socket: see LISTEN_FDS and LISTEN_FDNAMES",
            )

    def test_close(self) -> None:
        """A door is closed when it does not listen and nobody is inside any more."""
        daemon = Daemon()
        door = daemon._service.public[0]
        wire = daemon.open_connection()
        closed = door.close()
        self.assertNoResult(closed)
        door.close_unused()
        daemon.settle()
        self.assertTrue(wire.closed)
        self.successResultOf(closed)


class PrepareTests(SynchronousTestCase):
    """What every connection of a port has."""

    def test_tcp(self) -> None:
        """A connection sends at once, asks after a silent peer, and gives up on a deaf one."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            prepare(SimpleNamespace(socket=listening))
            with socket.create_connection(listening.getsockname()) as client:
                client.settimeout(10)
                with listening.accept()[0] as accepted:
                    for level, option, value in (
                        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
                        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
                    ):
                        self.assertEqual(accepted.getsockopt(level, option), value)

    def test_others(self) -> None:
        """A Unix socket knows at once, and a port without a socket needs nothing."""
        with socket.socket(socket.AF_UNIX) as handle:
            prepare(SimpleNamespace(socket=handle))
            self.assertEqual(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 0)
        port: Any = object()
        prepare(port)
