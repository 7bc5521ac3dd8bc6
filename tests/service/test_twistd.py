"""``makeService``: what it makes of the options and of the process."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from socket import AF_UNIX, SOCK_DGRAM, socket
from typing import Any, cast

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.base import ReactorBase
from twisted.internet.error import ConnectionDone
from twisted.logger import capturedLogs, globalLogBeginner
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd import service as face
from pushd.options.command_line import Options
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.service import twistd
from pushd.service.lifecycle.broker_wait import BrokerWait
from pushd.service.lifecycle.code_reload import CodeReload
from pushd.service.process.event_loop import EventLoopService
from pushd.service.process.garbage import GarbageService
from pushd.service.process.signals import Signals
from pushd.service.twistd import makeService
from pushd.testing import Daemon
from pushd.topics.redis import session as redis_probe
from pushd.topics.redis.broker import RedisBroker
from tests.support.certificate import make_tls_endpoint, no_warning, write_certificate
from tests.support.folder import make_folder
from tests.support.peer import Peer, request, said
from tests.support.recording_reactor import RecordingReactor


class IdleReactor(ReactorBase):
    """A reactor that is never run."""

    def installWaker(self) -> None: ...


class MakeServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Restore what makeService sets for the whole process."""
        self.patch(FAST_PATHS, "enabled", FAST_PATHS.enabled)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def make(self, *args: str) -> tuple[RecordingReactor, list[str], Any]:
        """Make the service that a command line asks for."""
        options = Options()
        options.parseOptions(list(args))
        reactor = RecordingReactor()
        with capturedLogs() as events:
            service = makeService(options, reactor)
        return reactor, said(events), service

    def test_options(self) -> None:
        """The service is built as the options say."""
        reactor, lines, service = self.make(
            *("--listen", "tcp:1", "--control", "none"),
            *("--max-connections", "5", "--max-memory", "64MiB"),
        )
        self.assertEqual(lines, ["connection limit is 5", "memory limit for all buffers is 64 MiB"])
        self.assertEqual(reactor.events, [])
        service.startService()
        self.assertEqual(reactor.events, ["opened 1"])
        self.successResultOf(service.stopService())
        self.assertEqual(reactor.events, ["opened 1", "closed 1"])

    def test_code_reload(self) -> None:
        """With --reload the code is watched, until the daemon stops."""
        state = str(make_folder(self))
        for args, watched in ((("--reload", "--state", state), 1), ((), 0)):
            _, _, service = self.make("--control", "none", "--listen", "tcp:1", *args)
            found = [one for one in service if isinstance(one, CodeReload)]
            self.assertEqual(len(found), watched)

    def test_reload(self) -> None:
        """SIGHUP reloads the configuration file, and systemd is notified."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "pushd.toml").write_text("drain = 7\n")
        with socket(AF_UNIX, SOCK_DGRAM) as systemd:
            systemd.bind(str(folder / "notify"))
            systemd.settimeout(10)
            self.patch(os, "environ", {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")})
            _, _, service = self.make("--config", str(folder / "pushd.toml"), "--control", "none")
            self.assertEqual(service.limits.drain, 7)
            (folder / "pushd.toml").write_text("drain = 8\n")
            (signals,) = [one for one in service if isinstance(one, Signals)]
            signals._hang_up("SIGHUP")
            self.assertEqual(service.limits.drain, 8)
            lines = [systemd.recv(4096).split(b"\n")[0] for _ in range(2)]
            self.assertEqual(lines, [b"RELOADING=1", b"READY=1"])
            (folder / "pushd.toml").write_text("drain = no\n")
            with capturedLogs():
                signals._hang_up("SIGHUP")
            self.assertEqual(systemd.recv(4096).split(b"\n")[0], b"RELOADING=1")
            self.assertIn(b"; the last reload was refused", systemd.recv(4096))

    def test_certificates(self) -> None:
        """SIGHUP reads the certificates of all ports again."""
        folder = make_folder(self)
        endpoint = make_tls_endpoint(folder)
        _, _, service = self.make("--listen", endpoint, "--control", endpoint)
        (signals,) = [one for one in service if isinstance(one, Signals)]
        with no_warning(), capturedLogs() as events:
            service.startService()
            write_certificate(folder / "key.pem", folder / "certificate.pem")
            signals._hang_up("SIGHUP")
        lines = [line for line in said(events) if "new connections get another" in line]
        self.assertEqual([line.split()[0] for line in lines], ["--listen", "--control"])
        self.successResultOf(service.stopService())

    def test_signals(self) -> None:
        """A real reactor gets its signal handlers at once; a fake one leaves those of the tests."""
        handled: list[Any] = []
        self.patch(Signals, "handle_early", lambda signals: handled.append(signals))
        self.make("--control", "none")
        self.assertEqual(handled, [])
        options = Options()
        options.parseOptions(["--control", "none"])
        service: Any = makeService(options, IdleReactor())
        self.assertEqual(handled, [one for one in service if isinstance(one, Signals)])

    def test_asyncio(self) -> None:
        """On a reactor that runs on asyncio's event loop, views run there, as the log says."""
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        reactor = AsyncioSelectorReactor(loop)
        for reader in reactor._internalReaders:
            self.addCleanup(reader.connectionLost, Failure(ConnectionDone()))
        self.patch(Signals, "handle_early", lambda signals: None)
        options = Options({})
        options.parseOptions(["--control", "none", "--listen", "tcp:0:interface=127.0.0.1"])
        service: Any = makeService(options, reactor)
        [one] = [one for one in service if isinstance(one, EventLoopService)]
        self.assertIsNotNone(loop.get_task_factory())
        with capturedLogs() as events:
            one.startService()
        self.assertRegex(said(events)[0], "^running on asyncio's event loop, asyncio's Unix")

    def test_fast_paths(self) -> None:
        """``--fast-paths`` is applied to the process before anything is built."""
        for switch, enabled in (("off", False), ("on", True)):
            self.make("--control", "none", "--fast-paths", switch)
            self.assertIs(FAST_PATHS.enabled, enabled)

    def test_limit_of_open_files(self) -> None:
        """The limit of open files lowers the connection limit, which is logged."""
        self.patch(resource, "getrlimit", lambda _: (200, 200))
        self.patch(resource, "setrlimit", lambda *_: None)
        reactor, (line, _), service = self.make("--max-connections", "100")
        self.assertRegex(line, r"^connection limit is 8, not 100: .*open files")
        service.startService()
        daemon = Daemon()
        daemon.clock = reactor
        peers = [Peer(daemon) for _ in range(9)]
        for peer in peers:
            peer.send(request("GET / HTTP/1.1", "Host: localhost:8080"))
        codes = [peer.head.split(" ")[1] for peer in peers]
        self.assertEqual(codes, ["200"] * 8 + ["503"])

    def make_with_redis(self) -> Any:
        """Make a service over a Redis that does not run."""
        return self.make("--broker", "unix://:secret@/no/such/socket")[2]

    def test_redis(self) -> None:
        """A Redis that is not reachable yet does not end the process; the daemon is not ready."""
        service = self.make_with_redis()
        self.assertIsInstance(service._broker, RedisBroker)
        fault = "Redis at unix://:***@/no/such/socket?db=0: not connected yet"
        self.assertEqual(service._broker.fault(), fault)
        service._readiness.listening = True
        self.assertEqual(service._readiness.reason(), fault)

    def test_unsuitable_redis(self) -> None:
        """A Redis that cannot be used ends the process."""
        self.patch(redis_probe, "probe", lambda _: "wrong user or password")
        error = self.assertRaises(SystemExit, self.make_with_redis)
        self.assertIn("wrong user or password", str(error))

    def test_wait_for_redis(self) -> None:
        """With a Redis, a real daemon holds all its ports until it has tried to connect."""
        self.patch(redis_probe, "probe", lambda _: None)
        self.patch(Signals, "handle_early", lambda signals: None)
        for broker, waits in (("redis://localhost", 1), ("memory", 0)):
            options = Options({})
            options.parseOptions(["--broker", broker])
            service: Any = makeService(options, IdleReactor())
            found = [one for one in service if isinstance(one, BrokerWait)]
            self.assertEqual(len(found), waits)
            for one in found:
                self.assertEqual(list(one._ports), [*service.public, *service.control])

    def test_global_reactor(self) -> None:
        """Without a reactor, the service runs on the global one, which it patches."""
        from twisted.internet import reactor as installed

        memory, reactor = RecordingReactor(), cast(Any, installed)
        self.patch(reactor, "listenTCP", memory.listenTCP)
        self.patch(reactor, "seconds", reactor.seconds)
        self.patch(reactor, "doIteration", look := reactor.doIteration)
        self.patch(globalLogBeginner, "beginLoggingTo", lambda observers: None)
        before = globalLogBeginner.beginLoggingTo
        service: Any = makeService(Options())
        self.assertIsNot(globalLogBeginner.beginLoggingTo, before)
        # Timers go by the monotonic clock from now on; the time of day is the system's.
        self.assertIs(reactor.seconds is time.monotonic, FAST_PATHS.enabled)
        self.assertIs(service.connections.now, time.time)
        is_epoll = type(reactor).__module__ == "twisted.internet.epollreactor"
        self.assertEqual(reactor.doIteration is not look, is_epoll and FAST_PATHS.enabled)
        self.assertTrue(any(isinstance(one, GarbageService) for one in service))
        self.assertEqual(memory.events, [])
        service.startService()
        self.assertEqual(memory.events, ["opened 8080", "opened 8081"])


class JournalTests(SynchronousTestCase):
    """Whether the lines of the log get the priorities of the journal."""

    def test_options(self) -> None:
        """They do if twistd writes its log to an output that is the journal's."""
        status = os.fstat(1)
        self.patch(os, "environ", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        in_front: dict[str, Any] = {"nodaemon": True, "logfile": None, "syslog": 0, "logger": None}
        for given, expected in (
            (None, False),
            (in_front, True),
            ({**in_front, "logfile": "-"}, True),
            ({**in_front, "logfile": "twistd.log"}, False),
            ({**in_front, "syslog": 1}, False),
            ({**in_front, "logger": "module.name"}, False),
            ({**in_front, "nodaemon": False}, False),
        ):
            self.assertIs(twistd._logs_to_journal(given), expected)
        os.environ.clear()
        self.assertIs(twistd._logs_to_journal(in_front), False)


class FaceTests(SynchronousTestCase):
    """The package, which imports the daemon only when it is asked for."""

    def test_names(self) -> None:
        """What twistd looks for is there, and nothing else is."""
        self.assertIs(face.makeService, makeService)
        self.assertIs(face.Options, Options)
        with self.assertRaisesRegex(AttributeError, "'pushd.service' has no attribute 'options'"):
            face.__getattr__("options")
