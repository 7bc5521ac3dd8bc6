"""A listening port: how it is opened and closed, and its socket options."""

from __future__ import annotations

import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.site import PushdSite
from pushd.service.listening import PortService, set_socket_options
from pushd.testing import Daemon
from tests.support.certificate import make_tls_endpoint, no_warning, write_certificate
from tests.support.folder import make_folder
from tests.support.peer import said


def site_of(daemon: Daemon) -> PushdSite:
    """Return the site of a daemon's public port."""
    site = daemon.clock.tcpServers[0][1]
    assert isinstance(site, PushdSite)
    return site


class PortServiceTests(SynchronousTestCase):
    def test_backlog(self) -> None:
        """The backlog is what the kernel allows at most, unless the endpoint gives another."""
        daemon = Daemon()
        for endpoint, backlog in (
            ("tcp:1", 65535),
            ("tcp:1:backlog=7", 7),
            ("haproxy:tcp:1", 65535),
        ):
            reactor = MemoryReactorClock()
            PortService(
                reactor, endpoint, site_of(daemon), message="{url}", option="--listen"
            ).startService()
            self.assertEqual(reactor.tcpServers[0][2], backlog)

    def test_mode(self) -> None:
        """A private Unix socket is for its user, or its folder's group, unless told otherwise."""
        daemon, folder = Daemon(), make_folder(self)
        shared = folder / "a:b"
        shared.mkdir()
        shared.chmod(0o2770)
        for path, private, mode in (
            (f"{folder}/socket", True, 0o600),
            ("socket", True, 0o600),
            (f"address={folder}/socket", True, 0o600),
            (f"{folder}/a\\:b/socket", True, 0o660),
            (f"{folder}/socket:mode=666", True, 0o666),
            (f"mode=640:address={folder}/socket", True, 0o640),
            (f"{folder}/socket:lockfile=1", False, 0o666),
        ):
            reactor = MemoryReactorClock()
            port = PortService(
                reactor,
                f"unix:{path}",
                site_of(daemon),
                message="{url}",
                option="--control",
                private=private,
            )
            port.startService()
            self.assertEqual(reactor.unixServers[0][3:], (mode, False))
            port.stopService()

    def test_used_path(self) -> None:
        """A path at which another process listens, or no socket can be, ends the process."""
        folder = make_folder(self)
        (folder / "file").touch()
        for path, reason in (
            ("used", "another process listens there"),
            ("file", "there is a file that is not a socket"),
            ("nowhere/socket", "No such file or directory"),
        ):
            endpoint = f"unix:{folder}/{path}"
            with socket.socket(socket.AF_UNIX) as listening:
                if path == "used":
                    listening.bind(f"{folder}/used")
                    listening.listen()
                port = PortService(
                    MemoryReactorClock(),
                    endpoint,
                    site_of(Daemon()),
                    message="",
                    option="--control",
                    private=True,
                )
                with self.assertRaises(SystemExit) as raised:
                    port.privilegedStartService()
            self.assertEqual(raised.exception.code, f"pushd: --control {endpoint}: {reason}")

    def test_failure(self) -> None:
        """A socket that cannot be opened leaves no lock behind."""

        class Failing(MemoryReactorClock):
            """Cannot listen."""

            def listenUNIX(self, *args: Any, **options: Any) -> Any:
                """Fail as Twisted does."""
                raise CannotListenError(None, "web", OSError("not allowed"))

            def listenTCP(self, *args: Any, **options: Any) -> Any:
                """Fail likewise."""
                raise CannotListenError("", 1, OSError("not allowed"))

        folder = make_folder(self)
        for endpoint in (f"unix:{folder}/web", "tcp:1"):
            port = PortService(
                Failing(), endpoint, site_of(Daemon()), message="", option="--listen"
            )
            with self.assertRaises(SystemExit) as raised:
                port.privilegedStartService()
            self.assertIn("not allowed", str(raised.exception.code))
        self.assertEqual(list(folder.iterdir()), [])

    def test_private_tcp(self) -> None:
        """A TCP port has no permissions."""
        reactor = MemoryReactorClock()
        port = PortService(
            reactor, "tcp:1", site_of(Daemon()), message="", option="--control", private=True
        )
        self.assertIsNone(port.stopService())
        port.startService()
        self.assertEqual(len(reactor.tcpServers), 1)

    def test_behind_proxy(self) -> None:
        """Behind haproxy: each connection begins with a header of the PROXY protocol."""
        reactor, site = MemoryReactorClock(), site_of(Daemon())
        for endpoint in ("tcp:1", "haproxy:tcp:1"):
            with capturedLogs() as events:
                service = PortService(reactor, endpoint, site, message="{url}", option="--listen")
                service.startService()
            self.assertEqual(events[0]["url"], "http://127.0.0.1:1/")
            factory = getattr(service._port, "factory", site)
            self.assertEqual(
                type(factory.buildProtocol(None)).__name__,
                "ProxiedConnection" if endpoint.startswith("haproxy:") else "Channel",
            )

    def test_systemd_without_a_socket(self) -> None:
        """A socket that systemd did not pass ends the process, with one line."""
        daemon = Daemon()
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            port = PortService(
                daemon.clock, endpoint, site_of(daemon), message="{url}", option="--listen"
            )
            with self.assertRaises(SystemExit) as raised:
                port.privilegedStartService()
            self.assertEqual(
                raised.exception.code,
                f"pushd: --listen {endpoint}: "
                "systemd did not pass this socket; check index= or name= against the socket unit "
                "(LISTEN_FDS, LISTEN_FDNAMES)",
            )

    def test_close(self) -> None:
        """A port is closed when it no longer listens and its last connection is gone."""
        daemon = Daemon()
        port = daemon._service.public[0]
        connection = daemon.open_connection()
        closed = port.close()
        self.assertNoResult(closed)
        port.close_unused()
        daemon.settle()
        self.assertTrue(connection.closed)
        self.successResultOf(closed)


class CertificateTests(SynchronousTestCase):
    """The certificate of a port, when it is read again."""

    def setUp(self) -> None:
        """Open a port with TLS."""
        self.folder = make_folder(self)
        self.endpoint = make_tls_endpoint(self.folder)
        reactor = MemoryReactorClock()
        self.port = self.open(reactor, self.endpoint)
        self.certificate = reactor.sslServers[0][2]
        self.before = self.certificate.context

    def open(self, reactor: MemoryReactorClock, endpoint: str) -> PortService:
        """Open a port."""
        port = PortService(reactor, endpoint, site_of(Daemon()), message="{url}", option="--listen")
        with no_warning():
            port.startService()
        return port

    def renew(self, key: str = "key.pem") -> None:
        """Write another certificate."""
        write_certificate(self.folder / key, self.folder / "certificate.pem")

    def test_renewed(self) -> None:
        """It is read at once, and in use when the caller says so; the log says until when."""
        self.renew()
        with no_warning():
            use = self.port.read_certificate()
            self.assertIs(self.certificate.context, self.before)
            with capturedLogs() as events:
                use()
            self.assertIsNot(self.certificate.context, self.before)
        [line] = said(events)
        self.assertRegex(
            line,
            rf"^--listen {self.endpoint}: new connections get another certificate, which expires "
            r"on 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$",
        )

    def test_same(self) -> None:
        """If the files have not changed, nothing does, and the log says nothing."""
        with no_warning(), capturedLogs() as events:
            self.port.read_certificate()()
            self.assertIs(self.certificate.context, self.before)
        self.assertEqual(events, [])

    def test_refused(self) -> None:
        """If the files cannot be used, the error says why, and nothing changes."""
        self.renew("other.pem")
        with no_warning():
            error = self.assertRaises(ValueError, self.port.read_certificate)
            self.assertIs(self.certificate.context, self.before)
        self.assertEqual(
            str(error),
            f"--listen {self.endpoint}: the certificate is not that of the private key",
        )

    def test_unexplained(self) -> None:
        """An error of another kind has its own words."""
        (self.folder / "chain.pem").write_bytes((self.folder / "certificate.pem").read_bytes())
        chained = f"{self.endpoint}:extraCertChain={self.folder}/chain.pem"
        port = self.open(MemoryReactorClock(), chained)
        (self.folder / "chain.pem").write_bytes(b"")
        error = self.assertRaises(ValueError, port.read_certificate)
        self.assertIn("doesn't contain any valid certificates in PEM format", str(error))

    def test_without_tls(self) -> None:
        """A port without TLS has no files to read."""
        self.open(MemoryReactorClock(), "tcp:1").read_certificate()()


class HoldTests(SynchronousTestCase):
    """Connections that wait in the kernel's queue."""

    def test_hold(self) -> None:
        """A port that is held is not read; one that does not listen has nothing to hold."""
        calls: list[str] = []

        class Pausable(MemoryReactorClock):
            """Its ports record whether they are read."""

            def listenTCP(self, *args: Any, **options: Any) -> Any:
                """Listen."""
                port: Any = super().listenTCP(*args, **options)
                port.pauseProducing = partial(calls.append, "pause")
                port.resumeProducing = partial(calls.append, "resume")
                return port

        service = PortService(
            Pausable(), "tcp:1", site_of(Daemon()), message="{url}", option="--listen"
        )
        service.hold()
        service.resume()
        self.assertEqual(calls, [])
        service.privilegedStartService()
        service.hold()
        service.resume()
        self.assertEqual(calls, ["pause", "resume"])


class SocketOptionTests(SynchronousTestCase):
    """The options that connections inherit from their port."""

    def test_tcp(self) -> None:
        """A TCP connection has TCP_NODELAY, keepalive and a time-out for unacknowledged data."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            set_socket_options(SimpleNamespace(socket=listening))
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
        """A Unix socket, and a port without a socket, are left alone."""
        with socket.socket(socket.AF_UNIX) as handle:
            set_socket_options(SimpleNamespace(socket=handle))
            self.assertEqual(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 0)
        port: Any = object()
        set_socket_options(port)
