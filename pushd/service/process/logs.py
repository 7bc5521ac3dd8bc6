"""The format of the log: text or JSON lines, and the level from which events are written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from typing import Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogBeginner,
    LogEvent,
    LogLevel,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
)
from twisted.python.reflect import safe_str
from zope.interface import implementer

from pushd.options.parsers import LEVELS
from pushd.views import demo

# What no line may hold as it is: a terminal would obey control characters (ECMA-48: C0 without tab
# and line feed, which text of several lines has, DEL and C1), Unicode's line breaks would forge
# lines, and half a surrogate pair could not be written.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Fields that Twisted's legacy log adds to events.
_LEGACY = frozenset({"format", "isError", "system", "time", "why"})


# How a line of each level begins in the journal.
_PRIORITIES = {
    LogLevel.debug: "<7>",
    LogLevel.info: "<6>",
    LogLevel.warn: "<4>",
    LogLevel.error: "<3>",
    LogLevel.critical: "<2>",
}


class LogStyle:
    """Formats events of the log as lines, and drops those below a level.

    :param as_json: one JSON object per line; else text as Twisted writes it.
    :param level: one of ``LEVELS``.
    :param priorities: whether each line begins with the priority that the journal of systemd gives
        it, and removes (sd-daemon(3)).
    """

    def __init__(
        self, *, as_json: bool = False, level: str = "info", priorities: bool = False
    ) -> None:
        self.set_level(level)
        self._format = json_line if as_json else text_line
        self._priorities = priorities

    def __call__(self, event: LogEvent) -> str | None:
        """Return the line of an event; None if it is below the level."""
        if not self.passes(event):
            return None
        line = self._format(event)
        if not self._priorities or line is None:
            return line
        priority = _PRIORITIES[event.get("log_level", LogLevel.info)]
        return priority + line[:-1].replace("\n", f"\n{priority}") + "\n"

    def set_level(self, level: str) -> None:
        """Change the level."""
        # A set, because comparing two levels takes longer, and each connection has two lines.
        self._passing = frozenset(one for one in LogLevel.iterconstants() if one >= LEVELS[level])

    def writes_debug(self) -> bool:
        """Return whether debug lines are written."""
        return LogLevel.debug in self._passing

    def passes(self, event: LogEvent) -> bool:
        """Return whether an event is of the level, or above it."""
        return event.get("log_level", LogLevel.info) in self._passing

    def apply_to(self, observer: ILogObserver) -> ILogObserver:
        """Return an observer that writes in this style to where the given one writes.

        One that writes no lines, such as that for syslog, keeps its own format, but gets no event
        below the level.
        """
        if isinstance(observer, FileLogObserver):
            observer.formatEvent = self
            return observer
        return _LevelFilter(self, observer)


@implementer(ILogObserver)
class _LevelFilter:
    """Passes events that are not below the level on to an observer."""

    def __init__(self, style: LogStyle, observer: ILogObserver) -> None:
        self._style = style
        self._observer = observer

    def __call__(self, event: LogEvent) -> None:
        if self._style.passes(event):
            self._observer(event)


def style_log_of_twistd(style: LogStyle, beginner: LogBeginner) -> None:
    """Have the log that twistd will open written in a style, from its first line on.

    twistd makes the service, and then calls ``beginLoggingTo`` with the observers that its own
    options ask for (``--logfile``, ``--syslog``). Twisted has no hook in between, so that method is
    replaced until it has been called. A log that has begun already is left alone.
    """
    begin = beginner.beginLoggingTo

    def begin_in_style(observers: Iterable[ILogObserver], *args: Any, **named: Any) -> None:
        beginner.beginLoggingTo = begin  # type: ignore[method-assign]  # as it was before
        demo.debug_hooks.append(style.writes_debug)
        begin([style.apply_to(observer) for observer in observers], *args, **named)

    beginner.beginLoggingTo = begin_in_style  # type: ignore[method-assign]  # until it is called


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether a descriptor is connected to the journal of systemd (systemd.exec(5)).

    :param environ: the environment, with ``JOURNAL_STREAM``.
    """
    if "JOURNAL_STREAM" not in environ:
        return False
    status = os.fstat(descriptor)
    return environ["JOURNAL_STREAM"] == f"{status.st_dev}:{status.st_ino}"


def text_line(event: LogEvent) -> str | None:
    """Return an event as a line in Twisted's own format; None for an event without text.

    This takes 5 µs, and Twisted's own function 85: each connection has two lines, which would take
    nearly as long as all the rest of a handshake. Failures, calls in the format and values that
    cannot be formatted are left to Twisted.
    """
    form, level = event.get("log_format"), event.get("log_level")
    system, moment = event.get("log_system"), event.get("log_time")
    if level is None or moment is None or "log_failure" in event or not isinstance(form, str):
        return _classic_line(event)
    try:
        text = "" if "(" in form else form.format_map(event)
    except Exception:  # Raised by a value's own __format__: Twisted puts that into the line.
        text = ""
    if not text:
        return _classic_line(event)
    if system is None:
        system = f"{event.get('log_namespace', '-')}#{level.name}"
    line = f"[{system}] {text}"
    if not line.isprintable():  # Nearly every line is.
        line = escape_controls(line).replace("\n", "\n\t")
    return f"{_text_time(int(moment))} {line}\n"


def _classic_line(event: LogEvent) -> str | None:
    line = formatEventAsClassicLogText(event)
    return None if line is None else escape_controls(line)


def escape_controls(text: str) -> str:
    """Return a text with its control characters as escapes, but for tabs and line feeds."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


@lru_cache(maxsize=2)
def _text_time(second: int) -> str:
    return formatTime(second)


def json_line(event: LogEvent) -> str:
    """Return an event as a line with one JSON object.

    First come ``time``, ``level``, ``event`` (a stable name), ``message`` (the text) and ``logger``
    (the part of pushd), then ``traceback`` if there is a failure, then the event's own fields. A
    field whose name is taken by one of these gets an underscore appended.
    """
    moment = datetime.fromtimestamp(event.get("log_time") or 0, UTC)
    line: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": event.get("log_level", LogLevel.info).name,
        "event": "message",
        "message": formatEvent(event),
        "logger": event.get("log_namespace", ""),
    }
    if "log_failure" in event:
        line["traceback"] = event["log_failure"].getTraceback()
    for name, value in event.items():
        if name == "event" and isinstance(value, str):
            line[name] = value
        elif not (name.startswith("log_") or _is_legacy(name, value)):
            line[f"{name}_" if name in line else name] = _plain(value)
    return json.dumps(line) + "\n"


def _is_legacy(name: str, value: object) -> bool:
    """Return whether a field was added by Twisted's legacy log."""
    return name in _LEGACY or (name == "message" and isinstance(value, tuple))


def _plain(value: object) -> object:
    """Return a value that JSON can represent: the value itself, or its text."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if isfinite(value) else str(value)
    return safe_str(value)
