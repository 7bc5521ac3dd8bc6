"""The demo: its page, the timing of its messages, and unexpected input."""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, NORMAL, Closing
from pushd.testing import Browser, Daemon
from pushd.views import demo

PUSHES = [f"service message: {number}" for number in range(10)]


def lines_about(events: Sequence[LogEvent], level: LogLevel = LogLevel.debug) -> list[str]:
    """Return the log lines about first messages."""
    lines = [str(formatEvent(event)) for event in events if event["log_level"] is level]
    return [line for line in lines if " sent " in line]


class DemoTestCase(SynchronousTestCase):
    """A daemon with the demo and nothing else."""

    def setUp(self) -> None:
        """Start the daemon; no delayed call may be left when the test is over."""
        self.daemon = Daemon()
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)

    def open(self) -> Browser:
        """Open the page's WebSocket."""
        browser = self.daemon.connect("/test/")
        self.assertTrue(browser.opened)
        return browser

    def check_run(self, browser: Browser) -> None:
        """Check the rest of a run whose first message has just arrived."""
        self.assertEqual(browser.messages, PUSHES[:1])
        for number in range(1, 10):
            self.daemon.advance(0.499)
            self.assertEqual(browser.messages, PUSHES[:number])
            self.daemon.advance(0.001)
            self.assertEqual(browser.messages, PUSHES[: number + 1])
        self.daemon.advance(0.499)
        self.assertIsNone(browser.closing)
        self.daemon.advance(0.001)
        self.assertEqual(browser.messages, PUSHES)
        self.assertEqual(browser.closing, NORMAL)
        self.assertTrue(browser.gone)
        self.assertEqual(self.daemon.pending_calls, [])


class PageTests(DemoTestCase):
    """The demo over HTTP."""

    def test_page(self) -> None:
        """GET is answered with 200 and the page as HTML in UTF-8."""
        answer = self.daemon.get("/test/")
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn("<!doctype html>", answer.text.lower())

    def test_head(self) -> None:
        """HEAD is answered with the same headers and no body."""
        answer, whole = self.daemon.request("HEAD", "/test/"), self.daemon.get("/test/")
        assert answer is not None
        assert whole is not None
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Length"], str(len(whole.body)))


class PaceTests(DemoTestCase):
    """The timing of the messages."""

    def test_pace(self) -> None:
        """Ten text messages come half a second apart, the first at once; then Close 1000."""
        browser = self.open()
        browser.send('["1","2","3"]')
        self.check_run(browser)

    def test_frames(self) -> None:
        """On the wire each message is one text frame, and the Close has code 1000 and no reason."""
        connection = self.daemon.open_connection()
        connection.send(
            b"GET /test/ HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head, _, rest = connection.received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "))
        self.assertIn(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", head)
        self.assertEqual(rest, b"")
        first = b'["1","2","3"]'
        connection.send(bytes([0x81, 0x80 | len(first)]) + bytes(4) + first)
        self.daemon.advance(*[0.5] * 10)
        frames = [b"\x81" + bytes([len(text)]) + text.encode() for text in PUSHES]
        frames.append(b"\x88\x02\x03\xe8")
        self.assertEqual(connection.received.partition(b"\r\n\r\n")[2], b"".join(frames))

    def test_silent_at_first(self) -> None:
        """Nothing is sent before the browser's first message, from which the time counts."""
        browser = self.open()
        self.daemon.advance(17.3)
        self.assertEqual(browser.messages, [])
        browser.send("go")
        self.check_run(browser)

    def test_lateness(self) -> None:
        """A reactor that is late delays one message and none of the following ones."""
        browser = self.open()
        browser.send("go")
        steps = [0.5, 0.75, 0.25, 0.5, 0.875, 0.125, 0.5, 0.5, 0.5]
        for number, step in enumerate(steps, 1):
            self.daemon.advance(step)
            self.assertEqual(browser.messages, PUSHES[: number + 1])
        self.assertEqual((sum(steps), browser.closing), (4.5, None))
        self.daemon.advance(0.5)
        self.assertEqual((browser.messages, browser.closing), (PUSHES, NORMAL))

    def test_very_late(self) -> None:
        """A reactor that is late by the whole run still sends all ten, in order, and closes."""
        browser = self.open()
        browser.send("go")
        self.daemon.advance(60)
        self.assertEqual((browser.messages, browser.closing), (PUSHES, NORMAL))

    def test_two_browsers(self) -> None:
        """Each browser has a run of its own."""
        first, second = self.open(), self.open()
        first.send("go")
        self.daemon.advance(0.25)
        second.send("go")
        self.daemon.advance(0.25)
        self.assertEqual((len(first.messages), len(second.messages)), (2, 1))
        self.daemon.advance(*[0.25] * 18)
        self.assertEqual((first.closing, second.closing), (NORMAL, None))
        self.daemon.advance(0.25)
        self.assertEqual((second.messages, second.closing), (PUSHES, NORMAL))

    def test_again(self) -> None:
        """The demo can be repeated."""
        for _ in range(3):
            browser = self.open()
            browser.send("go")
            self.check_run(browser)


class LeavingTests(DemoTestCase):
    """Browsers that leave during the run."""

    def setUp(self) -> None:
        """Return a browser that has received three messages."""
        super().setUp()
        self.browser = self.open()
        self.browser.send("go")
        self.daemon.advance(0.5, 0.5, 0.25)
        self.assertEqual(len(self.browser.messages), 3)

    def test_closes(self) -> None:
        """A browser that closes gets a Close and no further message; no timer is left."""
        self.browser.close(1001)
        self.assertTrue(self.browser.gone)
        self.assertIsNotNone(self.browser.closing)
        self.assertEqual(self.daemon.pending_calls, [])
        self.daemon.advance(*[0.5] * 10)
        self.assertEqual(len(self.browser.messages), 3)

    def test_vanishes(self) -> None:
        """A browser that vanishes leaves no timer."""
        self.browser.leave()
        self.assertEqual(self.daemon.pending_calls, [])

    def test_daemon_stops(self) -> None:
        """A daemon that stops closes the browser with 1001 at once; no timer is left."""
        stopped = self.daemon.begin_stop()
        self.assertEqual(self.browser.closing, GOING_AWAY)
        self.assertTrue(self.browser.gone)
        self.assertEqual(len(self.browser.messages), 3)
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_before_it_speaks(self) -> None:
        """A browser that never sent anything leaves no timer either, however it leaves."""
        for leave in (Browser.leave, Browser.close):
            silent = self.open()
            leave(silent)
            self.assertTrue(silent.gone)
        self.browser.leave()
        self.assertEqual(self.daemon.pending_calls, [])


class SilentBrowserTests(DemoTestCase):
    """Browsers that send nothing."""

    def wait(self, browser: Browser, seconds: float) -> None:
        """Advance the clock in steps, so that pings are answered."""
        while seconds > 5:
            self.daemon.advance(5)
            seconds -= 5
        self.daemon.advance(seconds)

    def test_silence(self) -> None:
        """After a minute without a message the browser is closed with 1008 and a reason."""
        browser = self.open()
        self.wait(browser, 59.999)
        self.assertIsNone(browser.closing)
        self.daemon.advance(0.001)
        self.assertEqual(browser.closing, Closing(1008, "no message came within 60 s"))
        self.assertTrue(browser.gone)
        self.assertEqual(browser.messages, [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_last_moment(self) -> None:
        """A first message at the last moment starts the whole run."""
        browser = self.open()
        self.wait(browser, 59.75)
        browser.send("go")
        self.check_run(browser)

    def test_pings_are_no_word(self) -> None:
        """A ping of the browser does not count as a message."""
        browser = self.open()
        for _ in range(12):
            browser.send_bytes(b"\x89\x80\0\0\0\0")
            self.daemon.advance(5)
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1008)


class FirstMessageTests(DemoTestCase):
    """Any first message starts the run, and is logged."""

    def start(self, message: str | bytes) -> str:
        """Send a message; return the line that is logged about it."""
        with capturedLogs() as events:
            browser = self.open()
            browser.send(message)
            self.check_run(browser)
        [line] = lines_about(events)
        return line

    def test_json(self) -> None:
        """The log has the message as it was sent and decoded, at level debug."""
        line = self.start('["1","2","3"]')
        self.assertRegex(line, r"^127\.0\.0\.1:\d+ sent ")
        self.assertIn("""sent '["1","2","3"]', which is ['1', '2', '3']""", line)

    def test_not_formatted(self) -> None:
        """The message is not formatted unless an observer formats the line."""
        read: list[object] = []

        def decode(message: object) -> str:
            read.append(message)
            return "read"

        self.patch(demo, "_decode", decode)
        # Observers of the test runner may format every line.
        events: list[LogEvent] = []
        self.patch(demo._log, "observer", events.append)
        self.open().send("[1]")
        self.assertEqual(read, [])
        self.assertIn("which is read", lines_about(events)[0])
        self.daemon.advance(*[0.5] * 10)

    def test_not_wanted(self) -> None:
        """If no log writes debug lines, none is emitted."""
        events: list[LogEvent] = []
        self.patch(demo._log, "observer", events.append)
        self.patch(demo, "debug_hooks", [lambda: False])
        self.open().send("[1]")
        self.assertEqual(events, [])
        self.daemon.advance(*[0.5] * 10)

    def test_any_json(self) -> None:
        """Any JSON is decoded."""
        for message, decoded in (("null", "None"), ("1e3", "1000.0"), ('{"a": "é"}', "{'a': 'é'}")):
            self.assertIn(f"which is {decoded}", self.start(message))

    def test_no_json(self) -> None:
        """A message that is not JSON is logged as such."""
        for message in ("", "{", "[1,]", "hello", "\x00", "nul"):
            self.assertIn("not JSON (JSONDecodeError)", self.start(message))

    def test_deep_json(self) -> None:
        """JSON with a hundred thousand nested brackets does no harm."""
        line = self.start("[" * 100_000 + "]" * 100_000)
        self.assertIn("not JSON (RecursionError)", line)

    def test_huge_number(self) -> None:
        """A number with ten thousand digits does no harm."""
        self.assertIn("not JSON (ValueError)", self.start("9" * 10_000))

    def test_binary(self) -> None:
        """A binary message is decoded if it is JSON."""
        self.assertIn("sent b'[1]', which is [1]", self.start(b"[1]"))
        self.assertIn("not JSON (UnicodeDecodeError)", self.start(b"\xff\xfe\xfd"))

    def test_long(self) -> None:
        """Of a long message the log has the beginning and the length."""
        message = json.dumps(["x" * 1000])
        line = self.start(message)
        self.assertLess(len(line), 600)
        self.assertIn("(1006 characters)", line)
        self.assertEqual(line.count("x" * 190), 2)

    def test_not_too_long(self) -> None:
        """A message that fits is logged as it is."""
        message = json.dumps("x" * 196)
        self.assertIn(f"sent {message!r}, which is '{'x' * 196}'", self.start(message))

    def test_line_breaks(self) -> None:
        """Line breaks and control characters do not forge log lines."""
        line = self.start('"a\\nb"\r\n')
        self.assertEqual(len(line.splitlines()), 1)

    def test_debug_only(self) -> None:
        """Contents of messages are logged at level debug only."""
        with capturedLogs() as events:
            browser = self.open()
            browser.send("secret")
            browser.leave()
        lines = [
            str(formatEvent(event)) for event in events if event["log_level"] is not LogLevel.debug
        ]
        self.assertNotEqual(lines, [])
        self.assertNotIn("secret", "\n".join(lines))


class DiscardedMessageTests(DemoTestCase):
    """Messages from the browser during the run are discarded."""

    def test_chatter(self) -> None:
        """They do not change the run."""
        browser = self.open()
        browser.send("go")
        for number in range(9):
            for message in ("more", b"\xff", ""):
                browser.send(message)
            self.daemon.advance(0.5)
            self.assertEqual(browser.messages, PUSHES[: number + 2])
        browser.send("still here")
        self.daemon.advance(0.5)
        self.assertEqual((browser.messages, browser.closing), (PUSHES, NORMAL))
        self.assertTrue(browser.gone)

    def test_flood(self) -> None:
        """More messages than the inbox holds are discarded before each push."""
        browser = self.open()
        browser.send("go")
        for number in range(9):
            for _ in range(200):
                browser.send("more")
            self.daemon.advance(0.5)
            self.assertEqual(browser.messages, PUSHES[: number + 2])
        self.daemon.advance(0.5)
        self.assertEqual(browser.closing, NORMAL)
        self.assertTrue(browser.gone)

    def test_only_first_counts(self) -> None:
        """Only the first message is logged."""
        with capturedLogs() as events:
            browser = self.open()
            browser.send("first")
            browser.send("second")
            self.daemon.advance(*[0.5] * 10)
        self.assertEqual(len(lines_about(events)), 1)

    def test_close_among_chatter(self) -> None:
        """A Close behind many messages is noticed when they are read, and nothing is left."""
        browser = self.open()
        browser.send("go")
        for _ in range(100):
            browser.send("more")
        browser.close()
        self.daemon.advance(0.5, 0.5)
        self.assertTrue(browser.gone)
        self.assertEqual(self.daemon.pending_calls, [])
