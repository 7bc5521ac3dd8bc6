"""What the log looks like: text or JSON, from a level on, each line once."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from io import BytesIO, StringIO
from types import SimpleNamespace
from typing import Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogBeginner,
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
    formatEventAsClassicLogText,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pushd.options.parsers import LEVELS
from pushd.service.logs import LogStyle, json_line, text_line
from pushd.views import demo

# The start of 2026, and something.
MOMENT = 1_767_225_600.1239


def event(**fields: Any) -> LogEvent:
    """Make an event."""
    return {
        "log_time": MOMENT,
        "log_level": LogLevel.info,
        "log_namespace": "pushd.hub",
        "log_format": "{one} and {two}",
        "one": 1,
        "two": "deux",
        **fields,
    }


@implementer(ILogObserver)
class Pigeonhole:
    """An observer that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


class JsonTests(SynchronousTestCase):
    def read(self, **fields: Any) -> dict[str, Any]:
        """Give the object that an event becomes."""
        line = json_line(event(**fields))
        self.assertEqual((line[-1], line.count("\n")), ("\n", 1))
        self.assertTrue(line.isascii())
        read: dict[str, Any] = json.loads(line, parse_constant=self.fail)
        return read

    def test_fields(self) -> None:
        """Time with its zone, level, event, text and module come first, then the event's own."""
        self.assertEqual(
            list(self.read(event="met").items()),
            [
                ("time", "2026-01-01T00:00:00.123+00:00"),
                ("level", "info"),
                ("event", "met"),
                ("message", "1 and deux"),
                ("logger", "pushd.hub"),
                ("one", 1),
                ("two", "deux"),
            ],
        )

    def test_no_name(self) -> None:
        """An event without a name is a message; a name that is no text is a field."""
        self.assertEqual(self.read()["event"], "message")
        read = self.read(event=5)
        self.assertEqual((read["event"], read["event_"]), ("message", 5))

    def test_taken(self) -> None:
        """A field whose name is taken gets an underscore; none hides what the log itself says."""
        read = self.read(message="content", level="x", traceback="y", log_failure=_failure())
        self.assertEqual((read["message"], read["message_"]), ("1 and deux", "content"))
        self.assertEqual((read["level"], read["level_"]), ("info", "x"))
        self.assertEqual(read["traceback_"], "y")

    def test_values(self) -> None:
        """What JSON has stays what it is; all else becomes text, and nothing breaks the line."""

        class Rude:
            def __str__(self) -> str:
                raise RuntimeError

        read = self.read(
            a=None,
            b=True,
            c=1.23456789,
            d=float("inf"),
            e=b"\xff",
            f="\ud800\n\x1b",
            g=Rude(),
            h=(1,),
        )
        self.assertEqual([read[name] for name in "abcd"], [None, True, 1.234568, "inf"])
        self.assertEqual((read["e"], read["f"], read["h"]), ("b'\\xff'", "\ud800\n\x1b", "(1,)"))
        self.assertIn("Rude", read["g"])

    def test_failure(self) -> None:
        """A failure's traceback is a field, not lines of its own."""
        read = self.read(log_failure=_failure())
        self.assertIn("ZeroDivisionError", read["traceback"])
        self.assertIn("test_logs.py", read["traceback"])

    def test_legacy(self) -> None:
        """What Twisted's older log says is a line like any other, without its machinery."""
        read = self.read(
            message=("old",), isError=0, system="-", time=1.0, why=None, format="x", log_system="-"
        )
        self.assertEqual([*read][5:], ["one", "two"])

    def test_bare(self) -> None:
        """An event that has nothing is a line all the same."""
        self.assertEqual(json.loads(json_line({}))["time"], "1970-01-01T00:00:00.000+00:00")


class LevelTests(SynchronousTestCase):
    def levels(self, style: LogStyle) -> list[str]:
        """Give the levels that are written."""
        return [
            level.name
            for level in LogLevel.iterconstants()
            if style(event(log_level=level)) is not None
        ]

    def test_levels(self) -> None:
        """What is below the level is not written, and a failure always is."""
        everything = ["debug", "info", "warn", "error", "critical"]
        for place, level in enumerate(LEVELS):
            for as_json in (False, True):
                style = LogStyle(as_json=as_json, level=level)
                self.assertEqual(self.levels(style), everything[place:])

    def test_change(self) -> None:
        """The level may change while the daemon runs."""
        style = LogStyle()
        self.assertEqual(self.levels(style)[0], "info")
        style.set_level("error")
        self.assertEqual(self.levels(style), ["error", "critical"])

    def test_text(self) -> None:
        """Text is as twistd writes it, with the traceback below."""
        style = LogStyle()
        line = style(event(log_failure=_failure()))
        assert line is not None
        self.assertRegex(line, r"^20\S+[+-]\d{4} \[pushd\.hub#info\] 1 and deux\n")
        self.assertIn("\tbuiltins.ZeroDivisionError", line)


class BeginTests(SynchronousTestCase):
    """twistd begins its log after it has made the service."""

    def setUp(self) -> None:
        """Have a log that has not begun."""
        self.publisher = LogPublisher()
        self.log = Logger("pushd.test", observer=self.publisher)
        self.errors = StringIO()
        self.streams = SimpleNamespace(stdout=sys.stdout, stderr=sys.stderr)
        warning = SimpleNamespace(showwarning=warnings.showwarning)
        self.beginner = LogBeginner(self.publisher, self.errors, self.streams, warning)
        self.patch(demo, "debug_hooks", [])

    def begin(self, make: Callable[[StringIO], ILogObserver] = textFileLogObserver) -> StringIO:
        """Begin as twistd does, with an observer of its choice."""
        file = StringIO()
        self.beginner.beginLoggingTo([make(file)])
        return file

    def test_once(self) -> None:
        """What is said before the log begins and after it is each written once, in order."""
        self.log.info("first")
        LogStyle(as_json=True).begin_with(self.beginner)
        self.log.info("second")
        file = self.begin()
        self.log.info("third")
        self.streams.stdout.write("printed\n")
        lines = [json.loads(line) for line in file.getvalue().splitlines()]
        self.assertEqual(
            [line["message"] for line in lines], ["first", "second", "third", "printed"]
        )
        self.assertEqual(self.errors.getvalue(), "")

    def test_bytes(self) -> None:
        """What --logfile names is written as UTF-8, where it was before."""
        LogStyle(level="warn").begin_with(self.beginner)
        file = BytesIO()
        self.beginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)
        self.log.info("quiet")
        self.log.warn("caf\u00e9")
        self.assertIn("caf\u00e9", file.getvalue().decode())
        self.assertNotIn(b"quiet", file.getvalue())
        self.assertIs(self.streams.stdout, sys.stdout)

    def test_syslog(self) -> None:
        """An observer that writes no lines keeps its own ways, and the level holds for it."""
        observer = Pigeonhole()
        LogStyle(as_json=True, level="warn").begin_with(self.beginner)
        self.begin(lambda _: observer)
        self.log.info("quiet")
        self.log.warn("loud")
        self.assertEqual([one["log_format"] for one in observer.events], ["loud"])

    def test_debug_hook(self) -> None:
        """From its beginning on, the log tells the demo whether it writes debug lines."""
        style = LogStyle(level="info")
        style.begin_with(self.beginner)
        style.set_level("warn")
        self.assertTrue(demo.is_debug_written())
        self.begin()
        self.assertFalse(demo.is_debug_written())
        style.set_level("debug")
        self.assertTrue(demo.is_debug_written())
        style.set_level("info")
        self.assertFalse(demo.is_debug_written())

    def test_several(self) -> None:
        """Of two daemons in one process, each may be the one whose style decides."""
        styles = [LogStyle(level=level) for level in ("debug", "error")]
        for style in styles:
            style.begin_with(self.beginner)
        self.begin()
        self.assertTrue(demo.is_debug_written())
        styles[0].set_level("info")
        self.assertFalse(demo.is_debug_written())
        styles[1].set_level("debug")
        self.assertTrue(demo.is_debug_written())

    def test_another(self) -> None:
        """A style that nothing is written in has no say."""
        LogStyle(level="error").set_level("warn")
        self.assertTrue(demo.is_debug_written())

    def test_left_as_it_was(self) -> None:
        """Only the next beginning is ours; what begins after it does so as ever."""
        LogStyle(as_json=True).begin_with(self.beginner)
        self.begin()
        file = StringIO()
        observer = textFileLogObserver(file)
        style = observer.formatEvent
        self.beginner.beginLoggingTo([observer])
        self.assertIs(observer.formatEvent, style)

    def test_two(self) -> None:
        """Of two daemons in one process, the one that was made first has the say."""
        for as_json in (True, False):
            LogStyle(as_json=as_json).begin_with(self.beginner)
        self.log.info("once")
        lines = self.begin().getvalue().splitlines()
        self.assertEqual([json.loads(line)["message"] for line in lines], ["once"])

    def test_observer(self) -> None:
        """The observer that was given is the one that twistd takes out at the end."""
        observer = FileLogObserver(StringIO(), lambda event: "x")
        self.assertIs(LogStyle().dress(observer), observer)


def _failure() -> Failure:
    try:
        1 / 0  # noqa: B018 - it is meant to fail
    except ZeroDivisionError:
        return Failure()
    raise AssertionError


class TextLineTests(SynchronousTestCase):
    """Text is Twisted's own, though it is made another way."""

    def test_same(self) -> None:
        """Whatever an event holds, the line is the one that Twisted would have written."""

        class Odd:
            """What can't be written."""

            def __format__(self, spec: str) -> str:
                raise ZeroDivisionError

        events: list[LogEvent] = [
            {"log_format": "{peer} {seconds:.3f} s", "peer": "a:1", "seconds": 1.5},
            {"log_format": "two\nlines and {more}", "more": "one\nmore\n"},
            {"log_format": "{call()}", "call": lambda: "called"},
            {"log_format": "{missing}"},
            {"log_format": "{odd}", "odd": Odd()},
            {"log_format": "{log_text}", "log_text": "older", "log_system": "-"},
            {"log_format": "x", "log_system": "a system"},
            {"log_format": "x", "log_level": LogLevel.error},
            {"log_format": "x", "log_level": None},
            {"log_format": "x", "log_time": None},
            {"log_format": "é{{}} %s"},
            {"log_format": b"bytes"},
            {"log_format": ""},
        ]
        for fields in events:
            given = event(**fields)
            self.assertEqual(text_line(given), formatEventAsClassicLogText(given), fields)
        for name in event():
            given = event()
            del given[name]
            self.assertEqual(text_line(given), formatEventAsClassicLogText(given), name)

    def test_failure(self) -> None:
        """A failure comes with its traceback."""
        given = event(log_failure=Failure(ZeroDivisionError("why")))
        self.assertEqual(text_line(given), formatEventAsClassicLogText(given))
        self.assertIn("why", str(text_line(given)))
