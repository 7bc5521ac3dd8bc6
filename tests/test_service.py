"""The daemon put together: its doors, what it says of them, and how it ends."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, globalLogBeginner
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pushd import redis_probe
from pushd.lockstep import LockstepThreads
from pushd.options import Options
from pushd.redis_broker import RedisBroker
from pushd.service import build, makeService, shipped_client
from pushd.settings import Settings
from pushd.signals import Signals
from pushd.testing import Daemon
from tests.peer import Peer, certificate_file, request, said


@implementer(IListeningPort)
class Port:
    """A port that says where it is, and notes when it is closed."""

    def __init__(self, address: IPv4Address | IPv6Address, events: list[str]) -> None:
        self._address = address
        self._events = events

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._address

    def startListening(self) -> None:
        """Do nothing: it listens already."""

    def stopListening(self) -> Deferred[None]:
        self._events.append(f"closed {self._address.port}")
        return succeed(None)


class Reactor(MemoryReactorClock):
    """A reactor in memory whose ports are where they were asked for, port 0 being 40000."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.trouble: Exception | None = None

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Port:
        if self.trouble is not None:
            raise self.trouble
        super().listenTCP(port, factory, backlog, interface)
        self.events.append(f"opened {port}")
        if ":" in interface:
            return Port(IPv6Address("TCP", interface, port or 40_000), self.events)
        return Port(IPv4Address("TCP", interface or "0.0.0.0", port or 40_000), self.events)


class DoorsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a reactor."""
        self.reactor = Reactor()

    def start(self, **settings: Any) -> list[str]:
        """Start a daemon; give what it says."""
        settings.setdefault("control", ())
        threads = LockstepThreads(1)
        self.service = build(Settings(**settings), self.reactor, threads)
        with capturedLogs() as events:
            self.service.privilegedStartService()
            self.service.startService()
        return said(events)


class DoorsTests(DoorsTestCase):
    def test_defaults(self) -> None:
        """By default the public door is at 8080 and the private one at 8081, here alone."""
        lines = self.start(control=Settings.control)
        doors = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(doors, [(8080, "127.0.0.1"), (8081, "127.0.0.1")])
        self.assertEqual(
            lines, ["listening on http://127.0.0.1:8080/", "control door at http://127.0.0.1:8081/"]
        )

    def test_many(self) -> None:
        """Each door may be at any number of places."""
        lines = self.start(listen=("tcp:1", "tcp:2"), control=("tcp:3", "tcp:4"))
        self.assertEqual(self.reactor.events, [f"opened {port}" for port in (1, 2, 3, 4)])
        self.assertEqual([line.rpartition(":")[2] for line in lines], ["1/", "2/", "3/", "4/"])

    def test_two_doors(self) -> None:
        """What stands behind one door does not stand behind the other."""
        daemon = Daemon()
        for control, path, status in (
            (False, "/test/", 200),
            (True, "/test/", 404),
            (False, "/healthz", 404),
            (True, "/healthz", 200),
        ):
            answer = daemon.request("GET", path, control=control)
            assert answer is not None
            self.assertEqual(answer.status, status, (control, path))

    def test_no_private_door(self) -> None:
        """The private door may stay shut."""
        self.start()
        self.assertEqual(self.reactor.events, ["opened 8080"])

    def test_urls(self) -> None:
        """What is logged is a URL that a browser on this machine can open."""
        for endpoint, url in (
            ("tcp:80:interface=127.0.0.1", "http://127.0.0.1:80/"),
            ("tcp:0", "http://127.0.0.1:40000/"),
            ("tcp:80", "http://127.0.0.1:80/"),
            ("tcp:80:interface=0.0.0.0", "http://127.0.0.1:80/"),
            ("tcp:80:interface=10.0.0.0", "http://10.0.0.0:80/"),
            ("tcp:80:interface=10.1.2.3", "http://10.1.2.3:80/"),
            ("tcp:80:interface=\\:\\:", "http://[::1]:80/"),
            ("tcp:80:interface=\\:\\:1", "http://[::1]:80/"),
            ("tcp:80:interface=fe80\\:\\:7", "http://[fe80::7]:80/"),
            ("unix:/run/pushd.sock", "unix:/run/pushd.sock"),
        ):
            self.assertEqual(self.start(listen=(endpoint,)), [f"listening on {url}"])

    def test_url_over_tls(self) -> None:
        """Over TLS it is one of https."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "both.pem").write_bytes(certificate_file())
        endpoint = f"ssl:443:privateKey={folder}/both.pem:certKey={folder}/both.pem"
        (line,) = self.start(listen=(endpoint,))
        self.assertRegex(line, r"^listening on https://127\.0\.0\.1:443/$")

    def test_port_in_use(self) -> None:
        """A port that is not to be had ends the process, with one line that says which and why."""
        for trouble, words in (
            (CannotListenError("127.0.0.1", 80, OSError(98, "Address already in use")), "in use"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (OverflowError("port must be 0-65535"), "0-65535"),
        ):
            self.reactor.trouble = trouble
            with self.assertRaises(SystemExit) as raised:
                self.start(listen=("tcp:80:interface=127.0.0.1",))
            line = raised.exception.code
            assert isinstance(line, str)
            self.assertTrue(line.startswith("pushd: tcp:80:interface=127.0.0.1: "), line)
            self.assertIn(words, line)
            self.assertEqual(line.splitlines(), [line])

    def test_no_descriptor(self) -> None:
        """So does a socket that systemd was to pass, and did not."""
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            with self.assertRaises(SystemExit) as raised:
                self.start(listen=(endpoint,))
            self.assertEqual(
                raised.exception.code,
                f"pushd: {endpoint}: "
                "systemd passed no such socket: see LISTEN_FDS and LISTEN_FDNAMES",
            )

    def test_without_privileges(self) -> None:
        """The doors open once, also where nobody starts a service twice."""
        service = build(Settings(), self.reactor, LockstepThreads(1))
        service.startService()
        self.assertEqual(self.reactor.events, ["opened 8080", "opened 8081"])
        service.stopService()
        self.start()
        self.assertEqual(self.reactor.events[4:], ["opened 8080"])

    def test_never_started(self) -> None:
        """What was never opened need not be closed."""
        service = build(Settings(), self.reactor, LockstepThreads(1))
        self.assertEqual([part.stopService() for part in service], [None] * 3)
        self.successResultOf(service.stopService())
        self.assertEqual(self.reactor.events, [])

    def test_files(self) -> None:
        """One's own files stand before those of the shipped client."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "pushd.css").write_text("ours")
        daemon = Daemon(web=folder)
        for path, ours in (("/pushd.css", True), ("/pushd.js", False)):
            answer = daemon.get(path)
            assert answer is not None
            self.assertEqual((answer.status, answer.text == "ours"), (200, ours))

    def test_shipped_client(self) -> None:
        """The shipped client is where its pages are."""
        self.assertTrue((shipped_client() / "test.html").is_file())


class MakeServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Keep this process's limit of open files."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def make(self, *args: str) -> tuple[Reactor, list[str], Any]:
        """Make the service that a command line asks for."""
        options = Options()
        options.parseOptions(list(args))
        reactor = Reactor()
        with capturedLogs() as events:
            service = makeService(options, reactor)
        return reactor, said(events), service

    def test_options(self) -> None:
        """The service is what the options say."""
        reactor, lines, service = self.make(
            "--listen", "tcp:1", "--control", "none", "--max-connections", "5"
        )
        self.assertEqual(lines, ["5 connections at most"])
        self.assertEqual(reactor.events, [])
        service.startService()
        self.assertEqual(reactor.events, ["opened 1"])
        self.successResultOf(service.stopService())
        self.assertEqual(reactor.events, ["opened 1", "closed 1"])

    def test_reload(self) -> None:
        """SIGHUP reads the file of options again, and systemd hears of it."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "pushd.toml").write_text("drain = 7\n")
        with socket(AF_UNIX, SOCK_DGRAM) as systemd:
            systemd.bind(str(folder / "notify"))
            systemd.settimeout(10)
            self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")})
            _, _, service = self.make("--config", str(folder / "pushd.toml"), "--control", "none")
            self.assertEqual(service.drain, 7)
            (folder / "pushd.toml").write_text("drain = 8\n")
            (signals,) = [one for one in service if isinstance(one, Signals)]
            signals._read_again("SIGHUP")
            self.assertEqual(service.drain, 8)
            lines = [systemd.recv(4096).split(b"\n")[0] for _ in range(2)]
            self.assertEqual(lines, [b"RELOADING=1", b"READY=1"])

    def test_limit_of_open_files(self) -> None:
        """More connections than this process may have are not promised, and it is said."""
        self.patch(resource, "getrlimit", lambda _: (200, 200))
        self.patch(resource, "setrlimit", lambda *_: None)
        reactor, (line,), service = self.make("--max-connections", "100")
        self.assertRegex(line, r"^8 connections at most, not 100: .*open files")
        service.startService()
        daemon = Daemon()
        daemon.clock = reactor
        peers = [Peer(daemon) for _ in range(9)]
        for peer in peers:
            peer.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        codes = [peer.head.split(" ")[1] for peer in peers]
        self.assertEqual(codes, ["200"] * 8 + ["503"])

    def make_with_redis(self) -> Any:
        """Make a service over a Redis that nobody is at."""
        return self.make("--broker", "unix://:secret@/nobody/is/here")[2]

    def test_redis(self) -> None:
        """Topics are kept where it was said; that nobody is there yet is no reason to end."""
        service = self.make_with_redis()
        self.assertIsInstance(service._broker, RedisBroker)
        fault = "Redis at unix://:***@/nobody/is/here?db=0: it has not answered yet"
        self.assertEqual(service._broker.fault(), fault)
        service._readiness.listening = True
        self.assertEqual(service._readiness.reason(), fault)

    def test_unsuitable_redis(self) -> None:
        """One that will not do ends it."""
        self.patch(redis_probe, "probe", lambda _: "wrong user or password")
        error = self.assertRaises(SystemExit, self.make_with_redis)
        self.assertIn("wrong user or password", str(error))

    def test_global_reactor(self) -> None:
        """Without a reactor it is the global one, which twistd runs."""
        from twisted.internet import reactor

        memory = Reactor()
        self.patch(reactor, "listenTCP", memory.listenTCP)
        self.patch(globalLogBeginner, "beginLoggingTo", lambda observers: None)
        before = globalLogBeginner.beginLoggingTo
        service = makeService(Options())
        self.assertIsNot(globalLogBeginner.beginLoggingTo, before)
        self.assertEqual(memory.events, [])
        service.startService()
        self.assertEqual(memory.events, ["opened 8080", "opened 8081"])
