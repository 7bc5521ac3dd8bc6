"""The demo: what it answers, what it pushes when, and how it takes what it did not expect."""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, NORMAL, Closing
from pushd.testing.daemon import Browser, Daemon
from pushd.views import demo as ticker

PUSHES = [f"service message: {number}" for number in range(10)]


def said(events: Sequence[LogEvent], level: LogLevel = LogLevel.debug) -> list[str]:
    """Give what the demo logs of a first message."""
    lines = [str(formatEvent(event)) for event in events if event["log_level"] is level]
    return [line for line in lines if " says " in line]


class TickerTestCase(SynchronousTestCase):
    """The daemon as it comes: with the demo and nothing else."""

    def setUp(self) -> None:
        """Start it; it must be empty when the test is over."""
        self.daemon = Daemon()
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)

    def open(self) -> Browser:
        """Open the page's WebSocket."""
        browser = self.daemon.connect("/test/")
        self.assertTrue(browser.opened)
        return browser

    def check_run(self, browser: Browser) -> None:
        """Check the whole run of a browser whose first push has just come."""
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


class PageTests(TickerTestCase):
    """Over HTTP."""

    def test_page(self) -> None:
        """GET answers 200 with the page as HTML in UTF-8."""
        answer = self.daemon.get("/test/")
        assert answer is not None
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn("<!doctype html>", answer.text.lower())

    def test_head(self) -> None:
        """HEAD answers the same without the page."""
        answer, whole = self.daemon.request("HEAD", "/test/"), self.daemon.get("/test/")
        assert answer is not None
        assert whole is not None
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Length"], str(len(whole.body)))


class PaceTests(TickerTestCase):
    """The pushes, second by second."""

    def test_pace(self) -> None:
        """Ten text frames come half a second apart, the first at once; then Close 1000."""
        browser = self.open()
        browser.send('["1","2","3"]')
        self.check_run(browser)

    def test_frames(self) -> None:
        """On the wire each push is one text frame, and the Close has 1000 and no reason."""
        wire = self.daemon.open_connection()
        wire.send(
            b"GET /test/ HTTP/1.1\r\nHost: localhost:8080\r\nOrigin: http://localhost:8080\r\n"
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head, _, rest = wire.received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 "))
        self.assertIn(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", head)
        self.assertEqual(rest, b"")
        first = b'["1","2","3"]'
        wire.send(bytes([0x81, 0x80 | len(first)]) + bytes(4) + first)
        self.daemon.advance(*[0.5] * 10)
        frames = [b"\x81" + bytes([len(text)]) + text.encode() for text in PUSHES]
        frames.append(b"\x88\x02\x03\xe8")
        self.assertEqual(wire.received.partition(b"\r\n\r\n")[2], b"".join(frames))

    def test_silent_at_first(self) -> None:
        """Before the browser speaks nothing is pushed, and the time counts from when it does."""
        browser = self.open()
        self.daemon.advance(17.3)
        self.assertEqual(browser.messages, [])
        browser.send("go")
        self.check_run(browser)

    def test_lateness(self) -> None:
        """A reactor that is late delays one push, and none behind it."""
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
        """A reactor that was away for the whole run still pushes all ten, in order, and closes."""
        browser = self.open()
        browser.send("go")
        self.daemon.advance(60)
        self.assertEqual((browser.messages, browser.closing), (PUSHES, NORMAL))

    def test_two_browsers(self) -> None:
        """Each browser has its own run."""
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
        """The run can be had again and again."""
        for _ in range(3):
            browser = self.open()
            browser.send("go")
            self.check_run(browser)


class LeavingTests(TickerTestCase):
    """Who leaves in the middle leaves nothing behind."""

    def setUp(self) -> None:
        """Have a browser that has had three pushes."""
        super().setUp()
        self.browser = self.open()
        self.browser.send("go")
        self.daemon.advance(0.5, 0.5, 0.25)
        self.assertEqual(len(self.browser.messages), 3)

    def test_closes(self) -> None:
        """A browser that closes gets its Close, no further push, and no timer is left."""
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
        """When the daemon stops the browser hears 1001 at once, and no timer is left."""
        stopped = self.daemon.begin_stop()
        self.assertEqual(self.browser.closing, GOING_AWAY)
        self.assertTrue(self.browser.gone)
        self.assertEqual(len(self.browser.messages), 3)
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_before_it_speaks(self) -> None:
        """A browser that never spoke leaves no timer either, however it goes."""
        for leave in (Browser.leave, Browser.close):
            silent = self.open()
            leave(silent)
            self.assertTrue(silent.gone)
        self.browser.leave()
        self.assertEqual(self.daemon.pending_calls, [])


class SilenceTests(TickerTestCase):
    """Who says nothing is let go."""

    def wait(self, browser: Browser, seconds: float) -> None:
        """Let time pass in steps, so that pings have their answers."""
        while seconds > 5:
            self.daemon.advance(5)
            seconds -= 5
        self.daemon.advance(seconds)

    def test_silence(self) -> None:
        """After a minute without a word comes Close 1008 with a reason, and nothing is left."""
        browser = self.open()
        self.wait(browser, 59.999)
        self.assertIsNone(browser.closing)
        self.daemon.advance(0.001)
        self.assertEqual(browser.closing, Closing(1008, "no message came within 60 s"))
        self.assertTrue(browser.gone)
        self.assertEqual(browser.messages, [])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_last_moment(self) -> None:
        """Who speaks at the last moment gets the whole run."""
        browser = self.open()
        self.wait(browser, 59.75)
        browser.send("go")
        self.check_run(browser)

    def test_pings_are_no_word(self) -> None:
        """A ping of the browser's is no message."""
        browser = self.open()
        for _ in range(12):
            browser.send_bytes(b"\x89\x80\0\0\0\0")
            self.daemon.advance(5)
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 1008)


class FirstMessageTests(TickerTestCase):
    """Whatever the first message is, it starts the run, and the log says what it was."""

    def start(self, message: str | bytes) -> str:
        """Send it; give the line that is logged."""
        with capturedLogs() as events:
            browser = self.open()
            browser.send(message)
            self.check_run(browser)
        [line] = said(events)
        return line

    def test_json(self) -> None:
        """The log has its raw form and what it says, for debugging only."""
        line = self.start('["1","2","3"]')
        self.assertRegex(line, r"^127\.0\.0\.1:\d+ says ")
        self.assertIn("""says '["1","2","3"]', that is ['1', '2', '3']""", line)

    def test_nobody_reads(self) -> None:
        """Where nobody reads the log's debug lines, the message is not looked at for them."""
        read: list[object] = []

        def decode(message: object) -> str:
            read.append(message)
            return "read"

        self.patch(ticker, "_decode", decode)
        # Each runner of tests has observers of its own, and some read everything.
        events: list[LogEvent] = []
        self.patch(ticker._log, "observer", events.append)
        self.open().send("[1]")
        self.assertEqual(read, [])
        self.assertIn("that is read", said(events)[0])
        self.daemon.advance(*[0.5] * 10)

    def test_not_wanted(self) -> None:
        """Where the log is not to have them, there are no such lines."""
        events: list[LogEvent] = []
        self.patch(ticker._log, "observer", events.append)
        self.patch(ticker, "debug_hooks", [lambda: False])
        self.open().send("[1]")
        self.assertEqual(events, [])
        self.daemon.advance(*[0.5] * 10)

    def test_any_json(self) -> None:
        """Any JSON will do."""
        for message, decoded in (("null", "None"), ("1e3", "1000.0"), ('{"a": "é"}', "{'a': 'é'}")):
            self.assertIn(f"that is {decoded}", self.start(message))

    def test_no_json(self) -> None:
        """What is no JSON is said to be none."""
        for message in ("", "{", "[1,]", "hello", "\x00", "nul"):
            self.assertIn("not JSON (JSONDecodeError)", self.start(message))

    def test_deep_json(self) -> None:
        """JSON of a hundred thousand brackets is no harm."""
        line = self.start("[" * 100_000 + "]" * 100_000)
        self.assertIn("not JSON (RecursionError)", line)

    def test_huge_number(self) -> None:
        """A number of ten thousand digits is no harm."""
        self.assertIn("not JSON (ValueError)", self.start("9" * 10_000))

    def test_binary(self) -> None:
        """A binary message is decoded when it is JSON, and is no harm when it is not."""
        self.assertIn("says b'[1]', that is [1]", self.start(b"[1]"))
        self.assertIn("not JSON (UnicodeDecodeError)", self.start(b"\xff\xfe\xfd"))

    def test_long(self) -> None:
        """Of a long message the log has the beginning and the length."""
        message = json.dumps(["x" * 1000])
        line = self.start(message)
        self.assertLess(len(line), 600)
        self.assertIn("(1006 characters)", line)
        self.assertEqual(line.count("x" * 190), 2)

    def test_not_too_long(self) -> None:
        """What fits is logged as it is."""
        message = json.dumps("x" * 196)
        self.assertIn(f"says {message!r}, that is '{'x' * 196}'", self.start(message))

    def test_line_breaks(self) -> None:
        """Line breaks and control characters do not forge lines of the log."""
        line = self.start('"a\\nb"\r\n')
        self.assertEqual(len(line.splitlines()), 1)

    def test_debug_only(self) -> None:
        """A message's content is at no other level: it may be anything, and of anybody."""
        with capturedLogs() as events:
            browser = self.open()
            browser.send("secret")
            browser.leave()
        lines = [
            str(formatEvent(event)) for event in events if event["log_level"] is not LogLevel.debug
        ]
        self.assertNotEqual(lines, [])
        self.assertNotIn("secret", "\n".join(lines))


class ChatterTests(TickerTestCase):
    """What a browser says while it is pushed to is not heard."""

    def test_chatter(self) -> None:
        """It changes nothing about the run."""
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
        """More of it than an inbox holds is read away at each push."""
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
        self.assertEqual(len(said(events)), 1)

    def test_close_among_chatter(self) -> None:
        """A Close behind a flood is seen at the next push at the latest, and nothing is left."""
        browser = self.open()
        browser.send("go")
        for _ in range(100):
            browser.send("more")
        browser.close()
        self.daemon.advance(0.5)
        self.assertTrue(browser.gone)
        self.assertEqual(self.daemon.pending_calls, [])
