"""Options read again: what is told, what waits for a restart, and what changes nothing."""


from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from pathlib import Path
from pushd.access.counters import Metrics
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.service.live import LiveSettings, Reloader, control_policy, public_policy
from pushd.testing.daemon import Daemon
from pushd.views.request import Request
from tests.echo import echo
from tests.peer import said
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

class ReloadTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Have a file of options."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = self.folder / "pushd.toml"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def write(self, *lines: str) -> None:
        """Write the file anew."""
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def options(self, *args: str) -> Options:
        """Read the options."""
        options = Options({})
        options.parseOptions(["--config", str(self.file), *args])
        return options


class ReloaderTests(ReloadTestCase):
    def start(self, *args: str) -> None:
        """Have options in force, and note the settings that are to come."""
        self.applied: list[Settings] = []
        self.reloader = Reloader(self.options(*args), [self.applied.append])

    def reload(self) -> list[str]:
        """Read again; give what is logged of it."""
        with capturedLogs() as events:
            self.reloader.reload()
        return [line.replace(f"{self.folder}{os.sep}", "") for line in said(events)]

    def test_nothing(self) -> None:
        """What is the same is told all the same: a file that it names may be another."""
        self.write("max-rate = 1")
        self.start()
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [1])

    def test_changed(self) -> None:
        """What is new is told once."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", 'origin = ["https://a.example", "https://b.example"]')
        self.assertEqual(
            self.reload(),
            [
                "reloaded: origin is https://a.example https://b.example now, not unset",
                "reloaded: max-rate is 2 now, not 1",
                "reloaded",
            ],
        )
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [2, 2])
        self.write()
        self.assertIn("reloaded: max-rate is 1000 now, not 2", self.reload())

    def test_restart(self) -> None:
        """What needs a restart is said, each time until there was one."""
        self.write("threads = 1")
        self.start()
        self.write("threads = 2", "max-rate = 2")
        line = "reloaded, but threads needs a restart: it stays 1, not 2"
        for _ in range(2):
            self.assertIn(line, self.reload())
        self.write("threads = 1", "max-rate = 2")
        self.assertEqual(self.reload(), ["reloaded"])

    def test_command_line(self) -> None:
        """The command line wins still."""
        self.write("max-rate = 1")
        self.start("--max-rate", "5")
        self.write("max-rate = 2")
        self.assertEqual(self.reload(), ["reloaded"])
        self.assertEqual(self.applied[0].limits.max_rate, 5)

    def test_broken(self) -> None:
        """A file with mistakes changes nothing; each is a line."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", "thread = 1", 'drain = "no"')
        self.assertEqual(
            self.reload(),
            [
                "not reloaded: pushd.toml: thread: no option has this name; did you mean threads?",
                "not reloaded: pushd.toml: drain: a number, without quotes",
            ],
        )
        self.write("max-rate = ")
        self.assertEqual(len(self.reload()), 1)
        self.file.unlink()
        self.assertIn("No such file", self.reload()[0])
        self.assertEqual(self.applied, [])

    def test_trouble(self) -> None:
        """Who can't put a setting in force keeps nobody else from it."""
        self.write()
        self.start()
        self.reloader = Reloader(self.options(), [_fail, self.applied.append])
        self.assertEqual(self.reload()[-1], "reloaded")
        self.assertEqual(len(self.applied), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


def _fail(settings: Settings) -> None:
    raise ZeroDivisionError


class ChangesTests(ReloadTestCase):
    """What a daemon does with new settings, while everybody stays."""

    def setUp(self) -> None:
        """Have a daemon, and somebody in it."""
        super().setUp()
        self.daemon = Daemon({"/": echo})
        self.browser = self.daemon.connect("/")
        self.assertTrue(self.browser.opened)

    def settings(self, *lines: str) -> None:
        """Let the settings come that a file amounts to."""
        self.write(*lines)
        for apply in self.daemon._service.appliers:
            apply(self.options().settings)

    def assert_closed(self, code: int) -> None:
        """Check that the one who is here was closed with this code."""
        assert self.browser.closing is not None
        self.assertEqual(self.browser.closing.code, code)

    def test_unchanged(self) -> None:
        """Who is here stays, and is served."""
        self.settings()
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])

    def test_origins(self) -> None:
        """Pages of other origins come in, and stay when they would not come in any more."""
        stranger = "https://other.example"
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        self.settings(f'origin = ["{stranger}"]')
        inside = self.daemon.connect("/", origin=stranger)
        self.assertTrue(inside.opened)
        self.settings()
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        inside.send("still here")
        self.assertEqual(inside.messages, ["still here"])

    def test_max_message(self) -> None:
        """Messages may be larger, and smaller, on connections that are open, and bodies as well."""
        self.settings("max-message = 200")
        self.assertEqual(self.post(b"x" * 201), 413)
        self.browser.send("x" * 200)
        self.assertEqual(self.browser.messages, ["x" * 200])
        self.browser.send("x" * 201)
        self.assert_closed(1009)
        self.settings("max-message = 2000000")
        other = self.daemon.connect("/")
        self.settings("max-message = 3000000")
        self.assertEqual(self.post(b"x" * 2_500_000), 200)
        other.send("x" * 2_500_000)
        self.assertEqual(len(other.messages), 1)

    def test_max_message_at_control(self) -> None:
        """So may the bodies that the control port takes, and a batch more than others."""
        self.settings("max-message = 10")
        self.assertEqual(self.post(b"x" * 11, "/topics/t", control=True), 413)
        batch = json.dumps({"publications": [{"topic": "t", "data": "x" * 10}] * 2})
        self.assertEqual(self.post(batch.encode(), "/publish", control=True), 200)
        self.assertEqual(self.post(batch.replace("x", "é").encode(), "/publish", control=True), 413)
        self.settings(f"max-message = {16 << 20}")
        self.assertEqual(self.post(b"x" * (16 << 20), "/topics/t", control=True), 200)
        self.assertEqual(self.post(b" " * (17 << 20), "/publish", control=True), 400)

    def test_max_message_published(self) -> None:
        """So may publications of views."""
        published: list[object] = []

        async def publish(request: Request) -> str:
            try:
                published.append(request.publish("t", "x" * 11))
            except ValueError as error:
                published.append(str(error))
            return ""

        self.daemon = Daemon({"/": publish})
        self.daemon.get("/")
        self.settings("max-message = 10")
        self.daemon.get("/")
        self.assertEqual(published[1], "a publication of 11 bytes: --max-message is 10")
        self.assertNotIsInstance(published[0], str)

    def test_max_rate(self) -> None:
        """Whoever sends too much by the new rate is closed; nobody is for what is past."""
        self.settings("max-rate = 1")
        for _ in range(10):
            self.browser.send("x")
        self.assertIsNone(self.browser.closing)
        self.browser.send("x")
        self.assert_closed(1008)

    def test_compression(self) -> None:
        """Those who come next get no compression, or get it."""
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        heads = []
        for line in ("compression = true", "compression = false", "compression = true"):
            self.settings(line)
            wire = self.daemon.open_connection()
            fields = {
                "Host": "localhost:8080",
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                **offer,
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            wire.send(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
            heads.append(b"permessage-deflate" in wire.received)
        self.assertEqual(heads, [True, False, True])

    def test_max_connections(self) -> None:
        """Nobody has to leave, but nobody may come."""
        self.settings("max-connections = 1")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 503)
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])
        self.settings("max-connections = 2")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_drain(self) -> None:
        """A stop takes as long as was said last."""
        self.settings("drain = 4")
        self.daemon.begin_stop()
        self.assertIsNone(self.browser.closing)
        self.daemon.advance(4)
        self.assert_closed(1001)

    def test_max_buffered(self) -> None:
        """Who is slow by the new measure is closed."""
        self.settings("max-buffered = 1")
        self.browser.stall()
        for _ in range(3):
            self.browser.send("x" * 100_000)
        self.browser.resume()
        self.assert_closed(1013)

    def post(self, body: bytes, path: str = "/", *, control: bool = False) -> int:
        """Post, to the public port unless told otherwise; give the status."""
        answer = self.daemon.request("POST", path, body=body, control=control)
        assert answer is not None
        return answer.status


# Larger than what a batch may have in any case.
LARGE = 16 << 20


class EntranceTests(SynchronousTestCase):
    """The entrances of a daemon that takes large messages, few people, and one proxy's word."""

    def setUp(self) -> None:
        """Make both."""
        settings = Settings(
            limits=Limits(max_message=LARGE, max_connections=3, max_per_address=2),
            proxies=Proxies(["10.0.0.1"]),
        )
        live = LiveSettings(lambda wanted: wanted)
        live.apply(settings)
        self.public = public_policy(live, settings.proxies, Metrics())
        self.control = control_policy(live, Metrics())

    def test_places(self) -> None:
        """Strangers get the places that there are for them; operators always have some."""
        for policy, here, there in (
            (self.public, [True, True, False, False], [True, False]),
            (self.control, [True] * 4, [True] * 2),
        ):
            admission = policy.admission
            self.assertEqual([admission.connect("1.2.3.4") is not None for _ in range(4)], here)
            self.assertEqual([admission.connect("1.2.3.5") is not None for _ in range(2)], there)

    def test_bodies(self) -> None:
        """A body is as large as a message; a batch of them is larger, at the control port alone."""
        for path, public, control in (
            (b"/topics/t", LARGE, LARGE),
            (b"/publish", LARGE, 2 * LARGE),
        ):
            self.assertEqual(self.public.body_limit(path), public)
            self.assertEqual(self.control.body_limit(path), control)

    def test_proxies(self) -> None:
        """Proxies are believed at the public port only."""
        self.assertTrue(self.public.proxies.trust("10.0.0.1"))
        self.assertFalse(self.control.proxies.trust("10.0.0.1"))
