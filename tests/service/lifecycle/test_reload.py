"""A reload: how options are read again, and how a running daemon applies them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from pushd.options.settings import Settings
from pushd.protocols.http.policy import DEFAULT_CSP
from pushd.service.lifecycle.reload import Reloader
from pushd.testing import Daemon
from pushd.views.request import Request
from tests.support.echo import echo
from tests.support.keyring import SECRET, public_pem
from tests.support.peer import said


class ReloadTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder for a configuration file."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = self.folder / "pushd.toml"
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)

    def write(self, *lines: str) -> None:
        """Write the configuration file."""
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def options(self, *args: str) -> Options:
        """Parse the options."""
        options = Options({})
        options.parseOptions(["--config", str(self.file), *args])
        return options


class ReloaderTests(ReloadTestCase):
    def start(self, *args: str) -> None:
        """Start with some options, and record the settings that are applied later."""
        self.applied: list[Settings] = []
        self.reloader = Reloader(self.options(*args), [self.applied.append])

    def reload(self) -> list[str]:
        """Reload, and return the log lines. The result says whether it was refused."""
        with capturedLogs() as events:
            reloaded = self.reloader.reload()
        self.assertEqual(reloaded, not any(one["event"] == "not_reloaded" for one in events))
        return [line.replace(f"{self.folder}{os.sep}", "") for line in said(events)]

    def test_nothing(self) -> None:
        """Unchanged settings are applied as well: a file that they name may have changed."""
        self.write("max-rate = 1")
        self.start()
        self.assertEqual(self.reload(), ["options reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [1])

    def test_changed(self) -> None:
        """A changed option is logged once."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", 'origin = ["https://a.example", "https://b.example"]')
        self.assertEqual(
            self.reload(),
            [
                "origin changed from unset to https://a.example https://b.example",
                "max-rate changed from 1 to 2",
                "options reloaded",
            ],
        )
        self.assertEqual(self.reload(), ["options reloaded"])
        self.assertEqual([one.limits.max_rate for one in self.applied], [2, 2])
        self.write()
        self.assertIn("max-rate changed from 2 to 1000", self.reload())

    def test_restart(self) -> None:
        """An option that needs a restart is logged at each reload."""
        self.write("threads = 1")
        self.start()
        self.write("threads = 2", "max-rate = 2")
        line = "threads changed from 1 to 2, which needs a restart; still using 1"
        for _ in range(2):
            self.assertIn(line, self.reload())
        self.write("threads = 1", "max-rate = 2")
        self.assertEqual(self.reload(), ["options reloaded"])

    def test_same_size(self) -> None:
        """A size that is only written in another unit has not changed."""
        self.write("max-message = 1048576")
        self.start()
        self.write('max-message = "1MiB"')
        self.assertEqual(self.reload(), ["options reloaded"])
        self.write('max-message = "10MB"')
        self.assertIn("max-message changed from 1048576 to 10MB", self.reload())

    def test_rules(self) -> None:
        """Changed rules for topics are logged once, and applied."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 1", "[[topic]]", 'match = "a"', "retain = true")
        self.assertEqual(
            self.reload(),
            [
                'topic changed from unset to {match = "a", retain = true}',
                "options reloaded",
            ],
        )
        self.assertEqual(self.reload(), ["options reloaded"])
        self.write("max-rate = 1")
        self.assertIn('topic changed from {match = "a", retain = true} to unset', self.reload())
        self.assertEqual([len(list(one.rules)) for one in self.applied], [1, 1, 0])
        self.write("[[topic]]", "match = 1")
        self.assertEqual(
            self.reload(),
            ["not reloaded: pushd.toml: topic 1: match 1: must be a string, in quotes"],
        )

    def test_command_line(self) -> None:
        """The command line still takes precedence over the file."""
        self.write("max-rate = 1")
        self.start("--max-rate", "5")
        self.write("max-rate = 2")
        self.assertEqual(self.reload(), ["options reloaded"])
        self.assertEqual(self.applied[0].limits.max_rate, 5)

    def test_broken(self) -> None:
        """With mistakes in the file nothing changes, and each mistake is logged."""
        self.write("max-rate = 1")
        self.start()
        self.write("max-rate = 2", "thread = 1", 'drain = "no"')
        self.assertEqual(
            self.reload(),
            [
                "not reloaded: pushd.toml: unknown option thread: did you mean threads?",
                'not reloaded: pushd.toml: drain "no": must be a number, without quotes',
            ],
        )
        self.write("max-rate = ")
        self.assertEqual(len(self.reload()), 1)
        self.file.unlink()
        self.assertIn("No such file", self.reload()[0])
        self.assertEqual(self.applied, [])

    def test_half_a_key(self) -> None:
        """A secret that is only half written, or too short, is not reloaded."""
        key = self.folder / "key"
        self.write(f'token-key = ["{key}"]')
        key.write_bytes(SECRET)
        self.start()
        for size, reason in (
            (10, "at least 32 bytes"),
            (40, "only the beginning of the one in use"),
        ):
            key.write_bytes(SECRET[:size])
            lines = self.reload()
            self.assertEqual(len(lines), 1)
            self.assertIn("not reloaded", lines[0])
            self.assertIn(reason, lines[0])
        self.assertEqual(self.applied, [])
        # A longer or another one is used, and is then the one in use.
        for new in (SECRET, SECRET + b"longer", b"x" * 64):
            key.write_bytes(new)
            self.assertEqual(self.reload(), ["options reloaded"])
        key.write_bytes(b"x" * 32)
        self.assertIn("only the beginning", self.reload()[0])
        public = self.folder / "public"
        public.write_bytes(public_pem("EdDSA"))
        self.write(f'token-key = ["{public}"]')
        self.assertEqual(self.reload()[-1], "options reloaded")

    def test_certificates(self) -> None:
        """Certificates are put into use once all that the reload reads is valid."""
        self.write("max-rate = 1")
        self.start()
        used: list[str] = []
        mistakes: list[str] = []

        def read(name: str) -> Callable[[], None]:
            if mistakes:
                raise ValueError(f"{name}: {mistakes[0]}")
            return lambda: used.append(name)

        reads = [partial(read, "--listen"), partial(read, "--control")]
        self.reloader = Reloader(self.options(), [self.applied.append], reads)
        self.assertEqual(self.reload(), ["options reloaded"])
        self.assertEqual(used, ["--listen", "--control"])
        self.write("max-rate = 2")
        mistakes.append("no certificate")
        self.assertEqual(
            self.reload(),
            [
                "not reloaded: --listen: no certificate",
                "not reloaded: --control: no certificate",
            ],
        )
        mistakes.clear()
        self.write("max-rate = no")
        self.assertEqual(len(self.reload()), 1)
        self.assertEqual(len(used), 2)
        self.assertEqual([one.limits.max_rate for one in self.applied], [1])

    def test_trouble(self) -> None:
        """An applier that raises is logged, and the others are called."""
        self.write()
        self.start()
        self.reloader = Reloader(self.options(), [_fail, self.applied.append])
        self.assertEqual(self.reload()[-1], "options reloaded")
        self.assertEqual(len(self.applied), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


def _fail(settings: Settings) -> None:
    raise ZeroDivisionError


class LiveSettingsTests(ReloadTestCase):
    """How a running daemon applies new settings without closing connections."""

    def setUp(self) -> None:
        """Start a daemon with one WebSocket."""
        super().setUp()
        self.daemon = Daemon({"/": echo})
        self.browser = self.daemon.connect("/")
        self.assertTrue(self.browser.opened)

    def apply(self, *lines: str) -> None:
        """Apply the settings of a configuration file."""
        self.write(*lines)
        for apply in self.daemon._service.appliers:
            apply(self.options().settings)

    def assert_closed(self, code: int) -> None:
        """Assert that the WebSocket was closed with a code."""
        assert self.browser.closing is not None
        self.assertEqual(self.browser.closing.code, code)

    def test_unchanged(self) -> None:
        """An open connection stays, and is served."""
        self.apply()
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])

    def test_origins(self) -> None:
        """Changed origins apply to new connections; open ones stay."""
        stranger = "https://other.example"
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        self.apply(f'origin = ["{stranger}"]')
        inside = self.daemon.connect("/", origin=stranger)
        self.assertTrue(inside.opened)
        self.apply()
        self.assertFalse(self.daemon.connect("/", origin=stranger).opened)
        inside.send("still here")
        self.assertEqual(inside.messages, ["still here"])

    def test_control_hosts(self) -> None:
        """The control port is served under changed names."""

        def status() -> int:
            answer = self.daemon.request("GET", "/metrics", {"Host": "pushd:8081"}, control=True)
            assert answer is not None
            return answer.status

        self.assertEqual(status(), 403)
        self.apply('control-host = ["pushd"]')
        self.assertEqual(status(), 200)
        self.apply('control-host = ["*.pushd"]')
        self.assertEqual(status(), 403)

    def test_csp(self) -> None:
        """A changed Content-Security-Policy is that of the pages from then on."""
        for line, policy in (("csp = \"default-src 'none'\"", "default-src 'none'"), ("", None)):
            self.apply(line)
            answer = self.daemon.get("/topics.html")
            assert answer is not None
            self.assertEqual(answer.headers["Content-Security-Policy"], policy or DEFAULT_CSP)

    def test_max_message(self) -> None:
        """A changed message limit applies to open WebSockets."""
        self.apply("max-message = 200")
        self.browser.send("x" * 200)
        self.assertEqual(self.browser.messages, ["x" * 200])
        self.browser.send("x" * 201)
        self.assert_closed(1009)
        self.apply("max-message = 2000000")
        other = self.daemon.connect("/")
        self.apply("max-message = 3000000")
        other.send("x" * 2_500_000)
        self.assertEqual(len(other.messages), 1)

    def test_max_body(self) -> None:
        """A changed limit applies to the bodies of requests."""
        self.apply("max-body = 200")
        self.assertEqual(self.post(b"x" * 201), 413)
        self.apply("max-body = 3000000")
        self.assertEqual(self.post(b"x" * 2_500_000), 200)

    def test_max_message_at_control(self) -> None:
        """It applies to bodies at the control port, where a batch may be larger."""
        self.apply("max-message = 10")
        self.assertEqual(self.post(b"x" * 11, "/topics/t", control=True), 413)
        batch = json.dumps({"publications": [{"topic": "t", "data": "x" * 10}] * 2})
        self.assertEqual(self.post(batch.encode(), "/publish", control=True), 200)
        self.assertEqual(self.post(batch.replace("x", "é").encode(), "/publish", control=True), 413)
        self.apply(f"max-message = {16 << 20}")
        self.assertEqual(self.post(b"x" * (16 << 20), "/topics/t", control=True), 200)
        self.assertEqual(self.post(b" " * (17 << 20), "/publish", control=True), 400)

    def test_max_message_published(self) -> None:
        """It applies to publications of views."""
        published: list[object] = []

        async def publish(request: Request) -> str:
            try:
                published.append(request.publish("t", "x" * 11))
            except ValueError as error:
                published.append(str(error))
            return ""

        self.daemon = Daemon({"/": publish})
        self.daemon.get("/")
        self.apply("max-message = 10")
        self.daemon.get("/")
        self.assertEqual(
            published[1], "publication must be at most 10 bytes (--max-message); got 11"
        )
        self.assertNotIsInstance(published[0], str)

    def test_max_rate(self) -> None:
        """A changed rate limit applies to open WebSockets, to messages from then on."""
        self.apply("max-rate = 1")
        for _ in range(10):
            self.browser.send("x")
        self.assertIsNone(self.browser.closing)
        self.browser.send("x")
        self.assert_closed(1008)

    def test_compression(self) -> None:
        """Compression is turned on and off for new WebSockets."""
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
        heads = []
        for line in ("compression = true", "compression = false", "compression = true"):
            self.apply(line)
            connection = self.daemon.open_connection()
            fields = {
                "Host": "localhost:8080",
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version": "13",
                **offer,
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            connection.send(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
            heads.append(b"permessage-deflate" in connection.received)
        self.assertEqual(heads, [True, False, True])

    def test_max_connections(self) -> None:
        """A lower connection limit refuses new connections, and open ones stay."""
        self.apply("max-connections = 1")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 503)
        self.browser.send("hello")
        self.assertEqual(self.browser.messages, ["hello"])
        self.apply("max-connections = 2")
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_drain(self) -> None:
        """A stop takes the time that was configured last."""
        self.apply("drain = 4")
        self.daemon.begin_stop()
        self.assertIsNone(self.browser.closing)
        self.daemon.advance(4)
        self.assert_closed(1001)

    def test_max_buffered(self) -> None:
        """A changed buffer limit applies to open WebSockets."""
        self.apply("max-buffered = 1")
        self.browser.stall()
        for _ in range(3):
            self.browser.send("x" * 100_000)
        self.browser.resume()
        self.assert_closed(1013)

    def post(self, body: bytes, path: str = "/", *, control: bool = False) -> int:
        """Send a POST request, and return the status."""
        answer = self.daemon.request("POST", path, body=body, control=control)
        assert answer is not None
        return answer.status
