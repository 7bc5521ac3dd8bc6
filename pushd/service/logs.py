"""What the log looks like: text for people, or JSON for machines, from a level on."""

from __future__ import annotations

import json
from collections.abc import Iterable
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

# What Twisted's older log puts into its events beside what was to be said.
_LEGACY = frozenset({"format", "isError", "system", "time", "why"})


class LogStyle:
    """How an event becomes what is written of it; one that is not to be written becomes None.

    :param as_json: one JSON object a line; else text, with failures over several lines.
    :param level: one of LEVELS.
    """

    def __init__(self, *, as_json: bool = False, level: str = "info") -> None:
        self.set_level(level)
        self._write = json_line if as_json else text_line

    def __call__(self, event: LogEvent) -> str | None:
        """What is written of an event."""
        return self._write(event) if self.lets_pass(event) else None

    def set_level(self, level: str) -> None:
        """Write what is of another level from now on."""
        # To compare two levels takes longer than to look one up, and each connection has two lines.
        self._passing = frozenset(one for one in LogLevel.iterconstants() if one >= LEVELS[level])

    def writes_debug(self) -> bool:
        """Whether debug lines are written."""
        return LogLevel.debug in self._passing

    def lets_pass(self, event: LogEvent) -> bool:
        """Whether an event is of the level, or above it."""
        return event.get("log_level", LogLevel.info) in self._passing

    def dress(self, observer: ILogObserver) -> ILogObserver:
        """Have an observer write in this style.

        One that writes no lines, as syslog's, keeps its own, and gets what is to be written.
        """
        if isinstance(observer, FileLogObserver):
            observer.formatEvent = self
            return observer
        return _Sieve(self, observer)

    def begin_with(self, beginner: LogBeginner) -> None:
        """Have the log that is about to begin written in this style, from its first line on.

        twistd opens the log after it has made the service, and holds back until then what is
        said meanwhile. Where it goes, stays what twistd was told: ``--logfile``, ``--syslog``.
        A log that has begun already is somebody else's.
        """
        begin = beginner.beginLoggingTo

        def begin_in_style(observers: Iterable[ILogObserver], *args: Any, **more: Any) -> None:
            beginner.beginLoggingTo = begin  # type: ignore[method-assign]  # as it was before
            demo.debug_hooks.append(self.writes_debug)
            begin([self.dress(observer) for observer in observers], *args, **more)

        # There is no other moment at which all of twistd's ways to choose a log come together.
        beginner.beginLoggingTo = begin_in_style  # type: ignore[method-assign]  # until it is called


@implementer(ILogObserver)
class _Sieve:
    """Passes on to an observer what is to be written."""

    def __init__(self, style: LogStyle, observer: ILogObserver) -> None:
        self._style = style
        self._observer = observer

    def __call__(self, event: LogEvent) -> None:
        if self._style.lets_pass(event):
            self._observer(event)


def text_line(event: LogEvent) -> str | None:
    """An event as Twisted's own log has it; None for one that says nothing.

    Each connection has two lines, and Twisted takes nearly as long for them as all else takes that
    is done for its handshake. What is special is left to it: failures, calls, odd values.
    """
    form, level = event.get("log_format"), event.get("log_level")
    system, moment = event.get("log_system"), event.get("log_time")
    if level is None or moment is None or "log_failure" in event or not isinstance(form, str):
        return formatEventAsClassicLogText(event)
    try:
        text = "" if "(" in form else form.format_map(event)
    except Exception:  # Whatever a value's own methods may raise, Twisted says it in the line.
        text = ""
    if not text:
        return formatEventAsClassicLogText(event)
    if system is None:
        system = f"{event.get('log_namespace', '-')}#{level.name}"
    indented = text.replace("\n", "\n\t")
    return f"{_text_time(int(moment))} [{system}] {indented}\n"


@lru_cache(maxsize=2)
def _text_time(second: int) -> str:
    return formatTime(second)


def json_line(event: LogEvent) -> str:
    """An event as one line of JSON.

    First come ``time``, ``level``, ``event`` (a name that does not change), ``message`` (the text)
    and ``logger`` (the module), then the event's own fields; one whose name is taken gets an
    underscore behind it. ``traceback`` is that of a failure.
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
    """Whether a field is one that Twisted's older log has put there."""
    return name in _LEGACY or (name == "message" and isinstance(value, tuple))


def _plain(value: object) -> object:
    """The value, or what it says of itself where JSON has nothing like it."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if isfinite(value) else str(value)
    return safe_str(value)
