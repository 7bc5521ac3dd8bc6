"""The building of a daemon: its ports, their policies, its files and its broker."""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import fields
from os.path import splitext
from typing import Any
from urllib.parse import urljoin

from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Counters
from pushd.access.limits import Limits
from pushd.access.memory import Memory
from pushd.access.proxies import Proxies
from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.service.build import (
    build,
    check_redis,
    control_policy,
    make_broker,
    public_policy,
    shipped_client,
)
from pushd.service.lifecycle.reload import LiveSettings
from pushd.testing import Daemon
from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import Retention
from pushd.topics.redis import session as redis_probe
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.rules import Rules
from pushd.views.demo import ticker
from pushd.views.routes import Routes
from tests.support.certificate import no_warning
from tests.support.folder import make_folder
from tests.support.peer import certificate_file, said
from tests.support.recording_reactor import RecordingReactor, make_runtime

# Larger than the minimum limit of a batch.
LARGE = 16 << 20


class PortsTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a reactor."""
        self.reactor = RecordingReactor()

    def start(self, **settings: Any) -> list[str]:
        """Start a daemon, and return its log lines."""
        settings.setdefault("control", ())
        self.service = build(Settings(**settings), make_runtime(self.reactor))
        with capturedLogs() as events:
            self.service.privilegedStartService()
            self.service.startService()
        return said(events)

    def test_defaults(self) -> None:
        """By default the ports are 8080 (public) and 8081 (control), on the loopback."""
        lines = self.start(control=Settings.control)
        ports = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(ports, [(8080, "127.0.0.1"), (8081, "127.0.0.1")])
        self.assertEqual(
            lines,
            [
                "listening on http://127.0.0.1:8080/",
                "control port listening on http://127.0.0.1:8081/",
            ],
        )

    def test_many(self) -> None:
        """Both ports may have several endpoints."""
        end = ":interface=127.0.0.1"
        lines = self.start(
            listen=("tcp:1" + end, "tcp:2" + end), control=("tcp:3" + end, "tcp:4" + end)
        )
        self.assertEqual(self.reactor.events, [f"opened {port}" for port in (1, 2, 3, 4)])
        self.assertEqual([line.rpartition(":")[2] for line in lines], ["1/", "2/", "3/", "4/"])

    def test_two_ports(self) -> None:
        """Views are served on the public port only, and health on the control port only."""
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

    def test_no_control_port(self) -> None:
        """Without a control endpoint there is no control port."""
        self.start()
        self.assertEqual(self.reactor.events, ["opened 8080"])

    def test_urls(self) -> None:
        """The real address is logged, and a URL that a browser on this machine can open."""
        path = make_folder(self) / "socket"
        for endpoint, url in (
            ("tcp:80:interface=127.0.0.1", "http://127.0.0.1:80/"),
            ("tcp:0", "http://0.0.0.0:40000/ (on this machine: http://127.0.0.1:40000/)"),
            ("tcp:80", "http://0.0.0.0:80/ (on this machine: http://127.0.0.1:80/)"),
            ("tcp:80:interface=10.0.0.0", "http://10.0.0.0:80/"),
            ("tcp:80:interface=10.1.2.3", "http://10.1.2.3:80/"),
            ("tcp:80:interface=\\:\\:", "http://[::]:80/ (on this machine: http://[::1]:80/)"),
            ("tcp:80:interface=\\:\\:1", "http://[::1]:80/"),
            ("tcp:80:interface=fe80\\:\\:7", "http://[fe80::7]:80/"),
            (f"unix:{path}", f"unix:{path}"),
        ):
            self.assertEqual(self.start(listen=(endpoint,)), [f"listening on {url}"])

    def test_exposed(self) -> None:
        """A control port that other machines may reach is a warning."""
        for endpoint, exposed in (
            ("tcp:81:interface=127.0.0.1", False),
            ("tcp:81:interface=\\:\\:1", False),
            (f"unix:{make_folder(self)}/control", False),
            ("tcp:81", True),
            ("tcp:81:interface=10.1.2.3", True),
        ):
            lines = self.start(control=(endpoint,))
            warned = [line for line in lines if line.startswith(f"--control {endpoint}: the cont")]
            self.assertEqual(len(warned), exposed, lines)
            self.successResultOf(self.service.stopService())

    def test_url_over_tls(self) -> None:
        """With TLS the logged URL starts with https."""
        folder = make_folder(self)
        (folder / "both.pem").write_bytes(certificate_file())
        endpoint = f"ssl:443:privateKey={folder}/both.pem:certKey={folder}/both.pem"
        with no_warning():
            (line,) = self.start(listen=(endpoint,))
        self.assertRegex(
            line, r"^listening on https://0\.0\.0\.0:443/ \(.*: https://127\.0\.0\.1:443/\)$"
        )

    def test_port_in_use(self) -> None:
        """If a port cannot be opened, the process ends with one line: which, and why."""
        for failure, words in (
            (CannotListenError("127.0.0.1", 80, OSError(98, "Address already in use")), "in use"),
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (OverflowError("port must be 0-65535"), "0-65535"),
        ):
            self.reactor.failure = failure
            with self.assertRaises(SystemExit) as raised:
                self.start(listen=("tcp:80:interface=127.0.0.1",))
            line = raised.exception.code
            assert isinstance(line, str)
            self.assertTrue(line.startswith("pushd: --listen tcp:80:interface=127.0.0.1: "), line)
            self.assertIn(words, line)
            self.assertEqual("choose another endpoint with --listen" in line, words == "in use")
            self.assertEqual(line.splitlines(), [line])

    def test_no_descriptor(self) -> None:
        """A socket that systemd did not pass ends the process, with one line."""
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            with self.assertRaises(SystemExit) as raised:
                self.start(listen=(endpoint,))
            self.assertEqual(
                raised.exception.code,
                f"pushd: --listen {endpoint}: "
                "systemd did not pass this socket; check index= or name= against the socket unit "
                "(LISTEN_FDS, LISTEN_FDNAMES)",
            )

    def test_without_privileges(self) -> None:
        """Ports open once, whether or not privilegedStartService is called first."""
        service = build(Settings(), make_runtime(self.reactor))
        service.startService()
        self.assertEqual(self.reactor.events, ["opened 8080", "opened 8081"])
        service.stopService()
        self.start()
        self.assertEqual(self.reactor.events[4:], ["opened 8080"])

    def test_never_started(self) -> None:
        """A daemon that was never started can be stopped."""
        service = build(Settings(), make_runtime(self.reactor))
        self.assertEqual([part.stopService() for part in service], [None] * 3)
        self.successResultOf(service.stopService())
        self.assertEqual(self.reactor.events, [])

    def test_files(self) -> None:
        """Files in --web take precedence over the bundled client."""
        folder = make_folder(self)
        (folder / "pushd.css").write_text("ours")
        daemon = Daemon(web=folder)
        for path, ours in (("/pushd.css", True), ("/pushd.js", False)):
            answer = daemon.get(path)
            assert answer is not None
            self.assertEqual((answer.status, answer.text == "ours"), (200, ours))

    def test_shipped_client(self) -> None:
        """The folder of the bundled client has its pages."""
        self.assertTrue((shipped_client() / "test.html").is_file())


# A link of a page, and an import of a script.
_LINK = re.compile(r'(?:href|src)="([^"#]*)|from "([^"]+)"')


class DemoFilesTests(SynchronousTestCase):
    """The start page, and the demo's pages and scripts."""

    DEMO = ("/test.html", "/topics.html", "/demo/test.js", "/demo/costs.js", "/demo/topics.js")

    def daemon(self, *args: str, **settings: Any) -> Daemon:
        """Start a daemon with options of the command line."""
        options = Options({})
        options.parseOptions(args)
        made = {one.name: getattr(options.settings, one.name) for one in fields(Settings)}
        daemon = Daemon(**made | settings)
        self.addCleanup(daemon.stop)
        return daemon

    def status(self, daemon: Daemon, path: str) -> int:
        answer = daemon.get(path)
        assert answer is not None
        return answer.status

    def crawl(self, daemon: Daemon, *start: str) -> set[str]:
        """Follow all links from some pages; return the paths, all of which are there."""
        seen: set[str] = set()
        waiting = list(start)
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            answer = daemon.get(path)
            assert answer is not None
            self.assertEqual(answer.status, 404 if path == "/nothing" else 200, path)
            waiting += [urljoin(path, a or b) for a, b in _LINK.findall(answer.text)]
        return seen

    def test_with_demo(self) -> None:
        """The start page leads to all of the demo, and no link is dead."""
        daemon = self.daemon()
        seen = self.crawl(daemon, "/", "/nothing")
        self.assertLess({"/test/", *self.DEMO} - {"/test.html"}, seen)

    def test_without_demo(self) -> None:
        """With --demo off its pages are 404, and no link is dead."""
        daemon = self.daemon("--demo", "off")
        seen = self.crawl(daemon, "/", "/nothing", "/pushd.js")
        self.assertLess({"/pushd.css", "/favicon.svg", "/transports.js"}, seen)
        for path in ("/test/", "/index.html", "/demo/timeline.js", *self.DEMO):
            self.assertEqual(self.status(daemon, path), 404, path)
        answer = daemon.get("/")
        assert answer is not None
        self.assertIn("<h1>pushd is running</h1>", answer.text)
        self.assertEqual(getattr(daemon.request("POST", "/"), "status", None), 405)

    def test_own_files(self) -> None:
        """With --demo off, files of the operator are served, whatever their names are."""
        folder = make_folder(self)
        for name in ("index.html", "test.html"):
            (folder / name).write_text("ours")
        daemon = self.daemon("--demo", "off", "--web", str(folder))
        for path in ("/", "/index.html", "/test.html"):
            answer = daemon.get(path)
            assert answer is not None
            self.assertEqual((answer.status, answer.text), (200, "ours"), path)
        self.assertEqual(self.status(daemon, "/topics.html"), 404)

    def test_npm_package(self) -> None:
        """Files of the client's npm package that no page loads are not served from a checkout."""
        client = shipped_client()
        served = {".css", ".html", ".js", ".svg"}
        names = {path.name for path in client.iterdir() if path.is_file()}
        hidden = {name for name in names if splitext(name)[1] not in served}
        self.assertLess({"package.json", "pushd.d.ts"}, hidden)

        def application(environ: object, start_response: Any) -> list[bytes]:
            start_response("404 Not Found", [])
            return []

        daemons = [self.daemon(), self.daemon("--demo", "off"), self.daemon(wsgi=application)]
        for name in hidden:
            for daemon in daemons:
                for path in (f"/{name}", f"/pushd/{name}"):
                    self.assertEqual(self.status(daemon, path), 404, path)
        folder = make_folder(self)
        (folder / "package.json").write_text("ours")
        self.assertEqual(self.status(self.daemon("--web", str(folder)), "/package.json"), 200)

    def test_own_view(self) -> None:
        """With --demo off, a page of the demo stays if a view of the operator is at its path."""
        daemon = self.daemon("--demo", "off", routes=Routes({"/test/": ticker}))
        seen = self.crawl(daemon, "/", "/test/", "/test.html")
        self.assertLess({"/demo/test.js", "/demo/timeline.js"}, seen)
        self.assertEqual(self.status(daemon, "/topics.html"), 404)


class IdTests(SynchronousTestCase):
    def test_ids(self) -> None:
        """An id never starts with a dash: a command would take it for an option."""
        daemon = Daemon()
        self.addCleanup(daemon.stop)
        answer = daemon.request("POST", "/topics/t", body=b"x", control=True)
        assert answer is not None
        self.assertRegex(json.loads(answer.body)["id"], r"\A[0-9a-f]{18}:1\Z")


# Nothing listens there.
UNREACHABLE = RedisAddress(path="/no/such/socket", password="secret")


class MakeBrokerTests(SynchronousTestCase):
    def make(self, address: RedisAddress | None) -> Broker:
        """Make a broker."""
        return make_broker(address, MemoryReactorClock(), Retention(), lambda: "name", id, Rules())

    def test_memory(self) -> None:
        """Without an address, topics are kept in memory."""
        self.assertIsInstance(self.make(None), MemoryBroker)

    def test_redis(self) -> None:
        """With an address, faults name the Redis, without its password."""
        broker = self.make(UNREACHABLE)
        self.assertIsInstance(broker, RedisBroker)
        self.assertEqual(
            broker.fault(), "Redis at unix://:***@/no/such/socket?db=0: not connected yet"
        )


class CheckRedisTests(SynchronousTestCase):
    def test_suitable(self) -> None:
        """A Redis that can be used, or is not reachable yet, does not end the process."""
        self.patch(redis_probe, "probe", lambda _: None)
        check_redis(UNREACHABLE)

    def test_unsuitable(self) -> None:
        """A Redis that cannot be used ends the process, with one line without the password."""
        self.patch(redis_probe, "probe", lambda _: "wrong user or password")
        error = self.assertRaises(SystemExit, check_redis, UNREACHABLE)
        said = "pushd: --broker unix://:***@/no/such/socket?db=0: wrong user or password"
        self.assertEqual(str(error), said)

    def test_not_installed(self) -> None:
        """Without the redis extra, the process ends with the command to install it."""
        module = importlib.import_module("hiredis")
        sys.modules["hiredis"] = None  # type: ignore[assignment]  # what makes an import fail
        error = self.assertRaises(SystemExit, check_redis, UNREACHABLE)
        sys.modules["hiredis"] = module
        self.assertIn("pip install 'pushd[redis]'", str(error))


class PolicyTests(SynchronousTestCase):
    """The policies of a daemon with large messages, few connections and one proxy."""

    def setUp(self) -> None:
        """Make the policies of both ports."""
        settings = Settings(
            limits=Limits(max_message=LARGE, max_body=5, max_connections=3, max_per_address=2),
            proxies=Proxies(["10.0.0.1"]),
        )
        live = LiveSettings(lambda wanted: wanted)
        live.apply(settings)
        memory = Memory(Clock(), live.limits)
        self.public = public_policy(
            Clock(), Clock().seconds, live, settings.proxies, Counters(), memory
        )
        self.control = control_policy(Clock(), Clock().seconds, live, Counters(), memory)

    def test_places(self) -> None:
        """The connection limits apply to the public port; the control port has its own."""
        for policy, here, there in (
            (self.public, [True, True, False, False], [True, False]),
            (self.control, [True] * 4, [True] * 2),
        ):
            admission = policy.admission
            self.assertEqual([admission.admit("1.2.3.4") is not None for _ in range(4)], here)
            self.assertEqual([admission.admit("1.2.3.5") is not None for _ in range(2)], there)

    def test_bodies(self) -> None:
        """A publication may be as large as a message, a batch larger; uploads have their limit."""
        for path, public, control in (
            (b"/topics/t", LARGE, LARGE),
            (b"/publish", 5, 2 * LARGE),
            (b"/topics", 5, LARGE),
        ):
            self.assertEqual(self.public.body_limit(path), public)
            self.assertEqual(self.control.body_limit(path), control)

    def test_proxies(self) -> None:
        """Proxies are trusted on the public port only."""
        self.assertTrue(self.public.proxies.is_trusted("10.0.0.1"))
        self.assertFalse(self.control.proxies.is_trusted("10.0.0.1"))
