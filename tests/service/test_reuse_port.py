"""The endpoint ``reuseport``, with real sockets."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from pushd.options.command_line import Options
from pushd.service.reuse_port import ReusePortEndpoint, ReusePortParser


class FakeReactor:
    """Records the sockets that it is asked to adopt."""

    def __init__(self, case: SynchronousTestCase) -> None:
        self._case = case
        self.adopted: list[socket.socket] = []

    def adoptStreamPort(self, descriptor: int, family: int, factory: object) -> str:
        """Duplicate the descriptor, as a real reactor does."""
        adopted = socket.fromfd(descriptor, family, socket.SOCK_STREAM)
        self._case.addCleanup(adopted.close)
        self.adopted.append(adopted)
        return "port"


class EndpointTests(SynchronousTestCase):
    """Several endpoints on one port."""

    def setUp(self) -> None:
        """Make a reactor."""
        self.reactor = FakeReactor(self)

    def listen(self, endpoint: Any) -> socket.socket:
        """Listen, and return the socket."""
        self.assertEqual(self.successResultOf(endpoint.listen(Factory())), "port")
        return self.reactor.adopted[-1]

    def test_two(self) -> None:
        """A second endpoint can listen on the port of the first."""
        first = self.listen(ReusePortEndpoint(self.reactor, 0, "127.0.0.1", 7))
        port = first.getsockname()[1]
        second = self.listen(ReusePortEndpoint(self.reactor, port, "127.0.0.1", 7))
        self.assertEqual(second.getsockname(), first.getsockname())
        for one in (first, second):
            self.assertTrue(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
            self.assertFalse(os.get_blocking(one.fileno()))

    def test_six(self) -> None:
        """An address with colons is an IPv6 address."""
        six = self.listen(ReusePortEndpoint(self.reactor, 0, "::1", 7))
        self.assertEqual(six.family, socket.AF_INET6)

    def test_taken(self) -> None:
        """A port in use by a socket without SO_REUSEPORT is refused."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            endpoint = ReusePortEndpoint(self.reactor, port, "127.0.0.1", 7)
            failure = self.failureResultOf(endpoint.listen(Factory()), CannotListenError)
        self.assertIn(f"127.0.0.1:{port}", failure.getErrorMessage())
        self.assertEqual(self.reactor.adopted, [])


class ParserTests(SynchronousTestCase):
    """The string ``reuseport:PORT:interface=ADDRESS:backlog=N``."""

    def test_parser(self) -> None:
        """Twisted finds the parser by its prefix."""
        verifyObject(IStreamServerEndpointStringParser, ReusePortParser())
        endpoint = serverFromString(None, r"reuseport:80:interface=\:\:1:backlog=3")
        self.assertIsInstance(endpoint, ReusePortEndpoint)
        self.assertEqual((endpoint._port, endpoint._interface, endpoint._backlog), (80, "::1", 3))

    def test_option(self) -> None:
        """It can be the value of ``--listen``; a mistake in it is reported for that option."""
        options = Options()
        options.parseOptions(["--listen=reuseport:8080"])
        self.assertEqual(options.settings.listen, ("reuseport:8080",))
        for wrong in ("reuseport:x", "reuseport:65536", "reuseport:1:backlog=x", "reuseport:"):
            error = self.assertRaises(SystemExit, Options().parseOptions, [f"--listen={wrong}"])
            self.assertIn(f"--listen {wrong}: must be an endpoint such as", str(error))
