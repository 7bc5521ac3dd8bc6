"""A door at an endpoint: opened once, and closed when everybody has their answer."""

from __future__ import annotations

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from pushd.channel import Door
from pushd.listening import DoorService
from pushd.testing import Daemon


def door_of(daemon: Daemon) -> Door:
    """Give the door that a daemon opens to everybody."""
    door = daemon.clock.tcpServers[0][1]
    assert isinstance(door, Door)
    return door


class DoorServiceTests(SynchronousTestCase):
    def test_backlog(self) -> None:
        """Many may wait to be let in, unless the endpoint says how many."""
        daemon = Daemon()
        for endpoint, backlog in (("tcp:1", 2048), ("tcp:1:backlog=7", 7)):
            reactor = MemoryReactorClock()
            DoorService(reactor, endpoint, door_of(daemon), "{url}").startService()
            self.assertEqual(reactor.tcpServers[0][2], backlog)

    def test_systemd_without_a_socket(self) -> None:
        """A socket that systemd was to pass and did not ends the process, with one line."""
        daemon = Daemon()
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            door = DoorService(daemon.clock, endpoint, door_of(daemon), "{url}")
            with self.assertRaises(SystemExit) as raised:
                door.privilegedStartService()
            self.assertEqual(
                raised.exception.code,
                f"pushd: {endpoint}: "
                "systemd passed no such socket: see LISTEN_FDS and LISTEN_FDNAMES",
            )

    def test_close(self) -> None:
        """A door is closed when it does not listen and nobody is inside any more."""
        daemon = Daemon()
        door = daemon._service.public[0]
        wire = daemon.open_connection()
        closed = door.close()
        self.assertNoResult(closed)
        door.close_silent()
        daemon.settle()
        self.assertTrue(wire.closed)
        self.successResultOf(closed)
