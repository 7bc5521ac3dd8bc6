"""The daemon put together: its doors, and what it says of them."""


from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from pushd.options.settings import Settings
from pushd.service.build import build, check_redis, make_broker, shipped_client
from pushd.testing.daemon import Daemon
from pushd.topics.broker import Broker, MemoryBroker
from pushd.topics.history import Retention
from pushd.topics.redis import session as redis_probe
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker
from tests.peer import certificate_file, said
from tests.ports import Reactor, make_runtime
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from typing import Any

class DoorsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a reactor."""
        self.reactor = Reactor()

    def start(self, **settings: Any) -> list[str]:
        """Start a daemon; give what it says."""
        settings.setdefault("control", ())
        self.service = build(Settings(**settings), make_runtime(self.reactor))
        with capturedLogs() as events:
            self.service.privilegedStartService()
            self.service.startService()
        return said(events)


class DoorsTests(DoorsTestCase):
    def test_defaults(self) -> None:
        """By default the public port is at 8080 and the private one at 8081, here alone."""
        lines = self.start(control=Settings.control)
        doors = [(port, interface) for port, _, _, interface in self.reactor.tcpServers]
        self.assertEqual(doors, [(8080, "127.0.0.1"), (8081, "127.0.0.1")])
        self.assertEqual(
            lines,
            [
                "listening on http://127.0.0.1:8080/",
                "control port listening on http://127.0.0.1:8081/",
            ],
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
        """The control port may stay shut."""
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
            self.assertTrue(line.startswith("pushd: --listen tcp:80:interface=127.0.0.1: "), line)
            self.assertIn(words, line)
            self.assertEqual(line.splitlines(), [line])

    def test_no_descriptor(self) -> None:
        """So does a socket that systemd was to pass, and did not."""
        for endpoint in ("systemd:domain=INET:index=99", "systemd:domain=INET:name=web"):
            with self.assertRaises(SystemExit) as raised:
                self.start(listen=(endpoint,))
            self.assertEqual(
                raised.exception.code,
                f"pushd: --listen {endpoint}: "
                "systemd passed no such socket: see LISTEN_FDS and LISTEN_FDNAMES",
            )

    def test_without_privileges(self) -> None:
        """The doors open once, also where nobody starts a service twice."""
        service = build(Settings(), make_runtime(self.reactor))
        service.startService()
        self.assertEqual(self.reactor.events, ["opened 8080", "opened 8081"])
        service.stopService()
        self.start()
        self.assertEqual(self.reactor.events[4:], ["opened 8080"])

    def test_never_started(self) -> None:
        """What was never opened need not be closed."""
        service = build(Settings(), make_runtime(self.reactor))
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


class NameTests(SynchronousTestCase):
    def test_ids(self) -> None:
        """An id is fit for a command line: one that began with a dash would be an option there."""
        daemon = Daemon()
        self.addCleanup(daemon.stop)
        answer = daemon.request("POST", "/topics/t", body=b"x", control=True)
        assert answer is not None
        self.assertRegex(json.loads(answer.body)["id"], r"\A[0-9a-f]{18}:1\Z")


# Where nobody is.
NOBODY = RedisAddress(path="/nobody/is/here", password="secret")


class MakeBrokerTests(SynchronousTestCase):
    def make(self, address: RedisAddress | None) -> Broker:
        """Make a broker."""
        return make_broker(address, MemoryReactorClock(), Retention(), lambda: "name")

    def test_memory(self) -> None:
        """Without a Redis topics are kept in this process."""
        self.assertIsInstance(self.make(None), MemoryBroker)

    def test_redis(self) -> None:
        """With one it is named in what is wrong, but for its password."""
        broker = self.make(NOBODY)
        self.assertIsInstance(broker, RedisBroker)
        self.assertEqual(
            broker.fault(), "Redis at unix://:***@/nobody/is/here?db=0: it has not answered yet"
        )


class CheckRedisTests(SynchronousTestCase):
    def test_suitable(self) -> None:
        """One that can be used, or that just isn't there yet, is no reason to end."""
        self.patch(redis_probe, "probe", lambda _: None)
        check_redis(NOBODY)

    def test_unsuitable(self) -> None:
        """One that will not do ends the process, with one line that has no password."""
        self.patch(redis_probe, "probe", lambda _: "wrong user or password")
        error = self.assertRaises(SystemExit, check_redis, NOBODY)
        said = "pushd: --broker unix://:***@/nobody/is/here?db=0: wrong user or password"
        self.assertEqual(str(error), said)

    def test_not_installed(self) -> None:
        """Without its extra it can't be had, and it is said how to get it."""
        for name in ("pushd.topics.redis.session",):
            self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
            sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
        error = self.assertRaises(SystemExit, check_redis, NOBODY)
        self.assertIn("pip install 'pushd[redis]'", str(error))
