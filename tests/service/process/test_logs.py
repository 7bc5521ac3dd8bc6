"""The log: its format, its level, and that each line is written once."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from io import BytesIO, StringIO
from tempfile import TemporaryFile
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
from pushd.service.process.logs import (
    LogStyle,
    is_journal,
    json_line,
    style_log_of_twistd,
    text_line,
)
from pushd.views import demo

# Shortly after the start of 2026, in seconds since 1970.
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
class RecordingObserver:
    """An observer that records the events it gets, and writes no lines."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


class JsonTests(SynchronousTestCase):
    def read(self, **fields: Any) -> dict[str, Any]:
        """Return the JSON object of an event."""
        line = json_line(event(**fields))
        self.assertEqual((line[-1], line.count("\n")), ("\n", 1))
        self.assertTrue(line.isascii())
        read: dict[str, Any] = json.loads(line, parse_constant=self.fail)
        return read

    def test_fields(self) -> None:
        """Time, level, event, message and logger come first, then the event's own fields."""
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
        """An event without a name is a ``message``; a name that is not a string is a field."""
        self.assertEqual(self.read()["event"], "message")
        read = self.read(event=5)
        self.assertEqual((read["event"], read["event_"]), ("message", 5))

    def test_taken(self) -> None:
        """A field whose name is taken gets an underscore, and does not replace the other."""
        read = self.read(message="content", level="x", traceback="y", log_failure=_failure())
        self.assertEqual((read["message"], read["message_"]), ("1 and deux", "content"))
        self.assertEqual((read["level"], read["level_"]), ("info", "x"))
        self.assertEqual(read["traceback_"], "y")

    def test_values(self) -> None:
        """A value that JSON cannot represent becomes text, and no value breaks the line."""

        class Unprintable:
            def __str__(self) -> str:
                raise RuntimeError

        read = self.read(
            a=None,
            b=True,
            c=1.23456789,
            d=float("inf"),
            e=b"\xff",
            f="\ud800\n\x1b",
            g=Unprintable(),
            h=(1,),
        )
        self.assertEqual([read[name] for name in "abcd"], [None, True, 1.234568, "inf"])
        self.assertEqual((read["e"], read["f"], read["h"]), ("b'\\xff'", "\ud800\n\x1b", "(1,)"))
        self.assertIn("Unprintable", read["g"])

    def test_failure(self) -> None:
        """The traceback of a failure is a field, not more lines."""
        read = self.read(log_failure=_failure())
        self.assertIn("ZeroDivisionError", read["traceback"])
        self.assertIn("test_logs.py", read["traceback"])

    def test_legacy(self) -> None:
        """An event of Twisted's legacy log is written without the fields of that log."""
        read = self.read(
            message=("old",), isError=0, system="-", time=1.0, why=None, format="x", log_system="-"
        )
        self.assertEqual([*read][5:], ["one", "two"])

    def test_bare(self) -> None:
        """An event without any fields is a line."""
        self.assertEqual(json.loads(json_line({}))["time"], "1970-01-01T00:00:00.000+00:00")


class LevelTests(SynchronousTestCase):
    def levels(self, style: LogStyle) -> list[str]:
        """Return the levels that a style writes."""
        return [
            level.name
            for level in LogLevel.iterconstants()
            if style(event(log_level=level)) is not None
        ]

    def test_levels(self) -> None:
        """Events below the level are not written."""
        everything = ["debug", "info", "warn", "error", "critical"]
        for place, level in enumerate(LEVELS):
            for as_json in (False, True):
                style = LogStyle(as_json=as_json, level=level)
                self.assertEqual(self.levels(style), everything[place:])

    def test_change(self) -> None:
        """The level can be changed."""
        style = LogStyle()
        self.assertEqual(self.levels(style)[0], "info")
        style.set_level("error")
        self.assertEqual(self.levels(style), ["error", "critical"])

    def test_text(self) -> None:
        """A text line has Twisted's format, with the traceback below it."""
        style = LogStyle()
        line = style(event(log_failure=_failure()))
        assert line is not None
        self.assertRegex(line, r"^20\S+[+-]\d{4} \[pushd\.hub#info\] 1 and deux\n")
        self.assertIn("\tbuiltins.ZeroDivisionError", line)


class JournalTests(SynchronousTestCase):
    """Lines for the journal of systemd."""

    def test_priorities(self) -> None:
        """Each line begins with the priority of its level, also those of a traceback."""
        for as_json in (False, True):
            style = LogStyle(as_json=as_json, level="debug", priorities=True)
            plain = LogStyle(as_json=as_json, level="debug")
            for level, priority in zip(LogLevel.iterconstants(), "76432", strict=True):
                one = event(log_level=level, log_failure=_failure())
                lines = (style(one) or "").splitlines()
                self.assertEqual({line[:3] for line in lines}, {f"<{priority}>"})
                self.assertEqual([line[3:] for line in lines], (plain(one) or "").splitlines())

    def test_no_line(self) -> None:
        """What has no line gets no priority."""
        style = LogStyle(priorities=True)
        self.assertIsNone(style(event(log_level=LogLevel.debug)))
        self.assertIsNone(style({"log_level": LogLevel.info}))

    def test_is_journal(self) -> None:
        """``JOURNAL_STREAM`` names the device and the inode of a stream to the journal."""
        with TemporaryFile() as file:
            status = os.fstat(file.fileno())
            for given, expected in (
                ({}, False),
                ({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, True),
                ({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}, False),
            ):
                self.assertIs(is_journal(file.fileno(), given), expected)


class TwistdLogTests(SynchronousTestCase):
    """The log that twistd opens after it has made the service."""

    def setUp(self) -> None:
        """Make a log that has not begun."""
        self.publisher = LogPublisher()
        self.log = Logger("pushd.test", observer=self.publisher)
        self.errors = StringIO()
        self.streams = SimpleNamespace(stdout=sys.stdout, stderr=sys.stderr)
        warning = SimpleNamespace(showwarning=warnings.showwarning)
        self.beginner = LogBeginner(self.publisher, self.errors, self.streams, warning)
        self.patch(demo, "debug_hooks", [])

    def begin(self, make: Callable[[StringIO], ILogObserver] = textFileLogObserver) -> StringIO:
        """Begin the log as twistd does, and return the file."""
        file = StringIO()
        self.beginner.beginLoggingTo([make(file)])
        return file

    def test_once(self) -> None:
        """Each event is written once, in order, whether it came before the log began or after."""
        self.log.info("first")
        style_log_of_twistd(LogStyle(as_json=True), self.beginner)
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
        """A file of ``--logfile`` is written in UTF-8."""
        style_log_of_twistd(LogStyle(level="warn"), self.beginner)
        file = BytesIO()
        self.beginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)
        self.log.info("quiet")
        self.log.warn("caf\u00e9")
        self.assertIn("caf\u00e9", file.getvalue().decode())
        self.assertNotIn(b"quiet", file.getvalue())
        self.assertIs(self.streams.stdout, sys.stdout)

    def test_syslog(self) -> None:
        """An observer that writes no lines keeps its format, and gets no event below the level."""
        observer = RecordingObserver()
        style_log_of_twistd(LogStyle(as_json=True, level="warn"), self.beginner)
        self.begin(lambda _: observer)
        self.log.info("quiet")
        self.log.warn("loud")
        self.assertEqual([one["log_format"] for one in observer.events], ["loud"])

    def test_debug_hook(self) -> None:
        """Once the log has begun, the demo can ask it whether debug lines are written."""
        style = LogStyle(level="info")
        style_log_of_twistd(style, self.beginner)
        style.set_level("warn")
        self.assertTrue(demo.is_debug_written())
        self.begin()
        self.assertFalse(demo.is_debug_written())
        style.set_level("debug")
        self.assertTrue(demo.is_debug_written())
        style.set_level("info")
        self.assertFalse(demo.is_debug_written())

    def test_several(self) -> None:
        """Of two daemons in one process, the demo writes debug lines if either does."""
        styles = [LogStyle(level=level) for level in ("debug", "error")]
        for style in styles:
            style_log_of_twistd(style, self.beginner)
        self.begin()
        self.assertTrue(demo.is_debug_written())
        styles[0].set_level("info")
        self.assertFalse(demo.is_debug_written())
        styles[1].set_level("debug")
        self.assertTrue(demo.is_debug_written())

    def test_another(self) -> None:
        """A style without a log does not keep the demo from writing debug lines."""
        LogStyle(level="error").set_level("warn")
        self.assertTrue(demo.is_debug_written())

    def test_left_as_it_was(self) -> None:
        """A log that begins later keeps its own format."""
        style_log_of_twistd(LogStyle(as_json=True), self.beginner)
        self.begin()
        file = StringIO()
        observer = textFileLogObserver(file)
        style = observer.formatEvent
        self.beginner.beginLoggingTo([observer])
        self.assertIs(observer.formatEvent, style)

    def test_two(self) -> None:
        """Of two daemons in one process, the style of the first is used."""
        for as_json in (True, False):
            style_log_of_twistd(LogStyle(as_json=as_json), self.beginner)
        self.log.info("once")
        lines = self.begin().getvalue().splitlines()
        self.assertEqual([json.loads(line)["message"] for line in lines], ["once"])

    def test_observer(self) -> None:
        """A file observer is styled in place: twistd removes that very object at the end."""
        observer = FileLogObserver(StringIO(), lambda event: "x")
        self.assertIs(LogStyle().apply_to(observer), observer)


def _failure() -> Failure:
    try:
        1 / 0  # noqa: B018 - it is meant to raise
    except ZeroDivisionError:
        return Failure()
    raise AssertionError


class TextLineTests(SynchronousTestCase):
    """A text line is the one that Twisted would write."""

    def test_same(self) -> None:
        """Whatever the fields of an event are, the line is the same as Twisted's."""

        class Unformattable:
            """A value that raises when it is formatted."""

            def __format__(self, spec: str) -> str:
                raise ZeroDivisionError

        events: list[LogEvent] = [
            {"log_format": "{peer} {seconds:.3f} s", "peer": "a:1", "seconds": 1.5},
            {"log_format": "two\nlines and {more}", "more": "one\nmore\n"},
            {"log_format": "{call()}", "call": lambda: "called"},
            {"log_format": "{missing}"},
            {"log_format": "{odd}", "odd": Unformattable()},
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

    def test_controls(self) -> None:
        """Nothing in a line is obeyed by a terminal, taken for a line's end, or unwritable."""
        text = "a\x1b[31m\x9b31m\x85\r\b\x7f\u2028\ud800\tb\xa0\u200bé"
        shown = r"a\x1b[31m\x9b31m\x85\r\x08\x7f\u2028\ud800" + "\tb\xa0\u200bé"
        for given in (
            event(log_format="{text}", text=text),
            event(log_format="{text()}", text=lambda: text),
            event(log_format="x", log_system=text),
            event(log_failure=Failure(ZeroDivisionError(text))),
        ):
            self.assertIn(shown, str(text_line(given)))
        lines = text_line(event(log_format="{text}", text="a\nb\x9b"))
        self.assertTrue(str(lines).endswith(" a\n\tb\\x9b\n"), lines)

    def test_failure(self) -> None:
        """A failure is written with its traceback."""
        given = event(log_failure=Failure(ZeroDivisionError("why")))
        self.assertEqual(text_line(given), formatEventAsClassicLogText(given))
        self.assertIn("why", str(text_line(given)))
