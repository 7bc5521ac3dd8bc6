"""Reading the options again while everybody stays."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from pushd.options.command_line import Options
from pushd.options.settings import Applier
from pushd.options.sources import Mistakes
from pushd.options.table import OPTIONS


class Reloader:
    """Reads the file of options again, and puts in force what can be.

    :param options: what is in force.
    :param appliers: what is to be told of new settings.
    """

    _log = Logger()

    def __init__(self, options: Options, appliers: Sequence[Applier]) -> None:
        self._options = options
        self._appliers = appliers
        self._in_force = {name: given.text for name, given in options.given.items()}

    def reload(self) -> None:
        """Do it, and log what came of it. Where there is any mistake, nothing changes."""
        try:
            settings, given = self._options.resolve()
        except Mistakes as mistakes:
            for line in mistakes.lines:
                self._log.error("not reloaded: {mistake}", event="not_reloaded", mistake=line)
            return
        for option in OPTIONS:
            text, before = given[option.name].text, self._in_force.get(option.name, option.default)
            if text == before:
                continue
            if option.live:
                self._in_force[option.name] = text
                line = "reloaded: {option} is {value} now, not {before}"
                log = self._log.info
            else:
                line = "reloaded, but {option} needs a restart: it stays {before}, not {value}"
                log = self._log.warn
            log(
                line,
                event="reloaded",
                option=option.name,
                value=option.show(text) or "unset",
                before=option.show(before) or "unset",
            )
        for apply in self._appliers:
            try:
                apply(settings)
            except Exception:
                self._log.failure("failed to put new settings in force", event="reload_failed")
        self._log.info("reloaded", event="reloaded")
