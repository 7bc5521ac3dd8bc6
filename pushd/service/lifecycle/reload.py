"""The settings that can change at run time, and the reload that changes them (SIGHUP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from twisted.logger import Logger

from pushd.access.limits import Limits
from pushd.access.origins import Hosts, Origins
from pushd.access.tokens import TokenKeys
from pushd.errors import InvalidOptions
from pushd.options.command_line import Options
from pushd.options.settings import OPTIONS, Applier, Settings
from pushd.options.sources import TABLE
from pushd.options.topic_tables import show_rules
from pushd.protocols.http.policy import page_headers
from pushd.topics.rules import Rules

_log = Logger(namespace="pushd.service")


class LiveSettings:
    """The settings that a reload can change, as the parts of a running daemon read them.

    A daemon has one of these. What depends on a setting keeps a reference to one of its objects,
    which a reload changes in place.

    :param allow_connections: gives how many of the wanted connections the process can have.
    """

    def __init__(self, allow_connections: Callable[[int], int]) -> None:
        self._allow_connections = allow_connections
        self.limits = Limits()
        #: Origins whose pages may open WebSockets.
        self.origins = Origins()
        #: Names under which the public port is served.
        self.hosts = Hosts()
        #: Further names under which the control port is served.
        self.control_hosts = Hosts()
        #: Keys of tokens.
        self.keys = TokenKeys()
        #: Rules for topics.
        self.rules = Rules()
        #: Headers of every page.
        self.page_headers: dict[bytes, bytes] = {}

    def apply(self, settings: Settings) -> None:
        """Put settings in force: at the start, and after each reload."""
        self.origins.replace(settings.origins)
        self.hosts.replace(settings.hosts)
        self.control_hosts.replace(settings.control_hosts)
        self.keys.replace(settings.token_keys)
        self.rules.replace(settings.rules)
        self.page_headers.clear()
        self.page_headers.update(page_headers(settings.csp))
        allowed = self._allow_connections(settings.limits.max_connections)
        self.limits.change_to(replace(settings.limits, max_connections=allowed))


class Reloader:
    """Reads the options again, and applies those that can change at run time.

    :param options: the options that the daemon was started with.
    :param appliers: functions that are called with the new settings.
    :param certificates: functions that read the certificates of ports again. Each returns what puts
        its certificate into use, or raises ValueError with a line for the log.
    """

    def __init__(
        self,
        options: Options,
        appliers: Sequence[Applier],
        certificates: Sequence[Callable[[], Callable[[], None]]] = (),
    ) -> None:
        self._options = options
        self._appliers = appliers
        self._certificates = certificates
        self._in_force = {name: given.text for name, given in options.given.items()}
        self._keys = options.settings.token_keys
        self._rules = options.settings.rules

    def reload(self) -> bool:
        """Reload, and log each option that has changed.

        With any mistake, nothing changes, and False is returned.
        """
        try:
            settings, given = self._options.resolve()
            renewals = self._read_files(settings)
        except InvalidOptions as mistakes:
            for line in mistakes.lines:
                _log.error("not reloaded: {mistake}", event="not_reloaded", mistake=line)
            return False
        self._keys = settings.token_keys
        for option in OPTIONS:
            text, before = given[option.name].text, self._in_force.get(option.name, option.default)
            if option.equal(text, before):
                continue
            if option.live:
                self._in_force[option.name] = text
                line = "{option} changed from {before} to {value}"
                log = _log.info
            else:
                line = (
                    "{option} changed from {before} to {value}, which needs a restart; "
                    "still using {before}"
                )
                log = _log.warn
            log(
                line,
                event="reloaded",
                option=option.name,
                value=option.show(text) or "unset",
                before=option.show(before) or "unset",
            )
        self._log_rules(settings.rules)
        applies: list[Callable[[], object]] = [partial(one, settings) for one in self._appliers]
        for apply in (*renewals, *applies):
            try:
                apply()
            except Exception:
                _log.failure(
                    "applying the new settings raised an exception: some may not be in force",
                    event="reload_failed",
                )
        _log.info("options reloaded", event="reloaded")
        return True

    def _read_files(self, settings: Settings) -> list[Callable[[], None]]:
        """Read the certificates in use, and check the keys. Raises InvalidOptions.

        :param settings: the new ones. A new value of ``--listen`` needs a restart, but the files of
            the old one are read again.
        """
        renewals, mistakes = [], []
        for read in self._certificates:
            try:
                renewals.append(read())
            except ValueError as mistake:
                mistakes.append(str(mistake))
        if settings.token_keys.are_cut_off(self._keys):
            # Else all tokens would be refused until the next reload.
            mistakes.append(
                "--token-key: a secret is only the beginning of the one in use; "
                "reload once its file is written, or restart to use it"
            )
        if mistakes:
            raise InvalidOptions(mistakes)
        return renewals

    def _log_rules(self, rules: Rules) -> None:
        """Log the rules for topics if they have changed."""
        before, self._rules = self._rules, rules
        if list(before) != list(rules):
            _log.info(
                "{option} changed from {before} to {value}",
                event="reloaded",
                option=TABLE,
                value=show_rules(rules) or "unset",
                before=show_rules(before) or "unset",
            )
