"""The command line of ``twistd pushd``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from getopt import GetoptError
from shutil import get_terminal_size
from typing import Any

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from pushd import __version__
from pushd.errors import InvalidOptions
from pushd.options.code_files import (
    CodeFiles,
    CommandLine,
    Execute,
    find_objection,
    make_state,
    remove_state_at_exit,
    wait_for_change,
)
from pushd.options.conflicts import EXPOSED, find_conflicts, find_exposed
from pushd.options.event_loop import TWISTED, install_asyncio, reason_for_asyncio
from pushd.options.help import write_help
from pushd.options.option import Option, make_settings
from pushd.options.settings import OPTIONS, Settings
from pushd.options.sources import (
    Given,
    Sources,
    closest,
    describe_conflict,
    parse,
    unknown_option,
    write_defaults,
    write_values,
)
from pushd.options.topic_tables import (
    find_rule_conflicts,
    read_rules,
    write_example,
    write_rules,
)
from pushd.topics.redis.address import find_missing_package

# Longer lines are hard to read, however wide the terminal is.
_MAX_WIDTH = 100

# How the placeholders begin of options that name something in Python.
_IN_CODE = "MODULE:"

# The variable of the option --state.
_STATE = "PUSHD_STATE"

# What is no setting, and takes no value.
_FLAGS = ("reload", "check", "print-config", "version")

_SEE_HELP = "see twistd pushd --help"


class Options(UsageOptions):
    """The options of ``twistd pushd``; ``settings`` is what they amount to.

    A mistake ends the process with exit code 1 and one line for each mistake, which says where the
    value comes from, what it is, and what is allowed.

    :param environ: the environment; None for that of the process.
    :param wait_for_change: returns when the code has changed.
    :param execute: replaces this process by another: ``os.execve``.
    :param install_asyncio: makes asyncio's event loop that of the reactor. It is called before any
        view is imported.
    """

    synopsis = "[options]"
    longdesc = (
        "Serves views over WebSocket and HTTP, topics over WebSocket, Server-Sent Events and long "
        "polling, and the static client."
    )

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        install_asyncio: Callable[[], object] = install_asyncio,
        wait_for_change: Callable[[CodeFiles], object] = wait_for_change,
        execute: Execute = os.execve,
    ) -> None:
        self._install_asyncio = install_asyncio
        self._environ = os.environ if environ is None else environ
        self._given: dict[str, list[str]] = {}
        self._file = self._environ.get("PUSHD_CONFIG")
        self._check = False
        self._wait_for_change = wait_for_change
        self._execute = execute
        # How the lines about options begin that the code may be to blame for.
        self._in_code: list[str] = []
        #: With --reload, the command that starts this process again; else None.
        self.command: CommandLine | None = None
        self._reload = False
        super().__init__()
        self.settings = Settings()
        #: The text and the source of each option's value.
        self.given: dict[str, Given] = {}

    def opt_config(self, path: str) -> None:
        """Read options from this TOML file. Its keys are the names of the options."""
        self._file = path

    def opt_reload(self) -> None:
        """Start anew when a Python file of the application changes. For development only."""
        self._reload = True

    def opt_check(self) -> None:
        """Check the options, print the resulting configuration or every mistake, and exit."""
        self._check = True

    def opt_print_config(self) -> None:
        """Print a configuration file with all options and their defaults, and exit."""
        raise _print_and_exit((write_defaults(OPTIONS) + write_example()).removesuffix("\n"))

    def opt_version(self) -> None:
        """Print the version and exit."""
        raise _print_and_exit(f"pushd {__version__}")

    def opt_help(self) -> None:
        """Print this help and exit."""
        raise _print_and_exit(str(self))

    def getUsage(self, width: int | None = None) -> str:
        """Return the help without its first line."""
        if width is None:
            width = min(get_terminal_size().columns, _MAX_WIDTH)
        flags = {
            "--config FILE": self.docs["config"],
            **{f"--{name}": self.docs[name] for name in _FLAGS},
            "--help": self.docs["help"],
        }
        return write_help(OPTIONS, flags, self.longdesc, width)

    def parseArgs(self, *args: str) -> None:
        """Refuse arguments that are not options."""
        if args:
            raise UsageError(f"unexpected argument {args[0]!r}: {_SEE_HELP}")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse and validate the command line."""
        try:
            super().parseOptions(options)
        except UsageError as error:
            # twistd would print the whole help above this line.
            cause = error.__context__
            line = self._explain(cause) if isinstance(cause, GetoptError) else str(error)
            raise SystemExit(f"pushd: {line}") from None

    def postOptions(self) -> None:
        """Make the settings."""
        try:
            if self._reload:
                self._prepare_reload()
            self._choose_loop()
            self.settings, self.given = self.resolve()
        except InvalidOptions as mistakes:
            lines = "\n".join(f"pushd: {line}" for line in mistakes.lines)
            if self.command is not None and not self._check and self._blames_code(mistakes):
                files = CodeFiles()  # From now on, as somebody who reads the lines may be quick.
                print(lines, file=sys.stderr)  # noqa: T201 - there is no log yet
                print("pushd: waiting for a change of the code", file=sys.stderr)  # noqa: T201
                self._wait_for_change(files)
                self.command.start_again()
            raise SystemExit(lines) from None
        if self._check:
            broker = self.settings.broker
            if broker is not None and (missing := find_missing_package()) is not None:
                raise SystemExit(f"pushd: --broker {broker}: {missing}")
            for line in self.warnings():
                print(f"pushd: {line}", file=sys.stderr)  # noqa: T201 - the output asked for
            raise _print_and_exit(self.effective())

    def _prepare_reload(self) -> None:
        """Note the command, and let topics outlive it. Raises InvalidOptions."""
        twistd: Mapping[str, Any] = self.parent or {}
        in_foreground = twistd.get("nodaemon", True) or twistd.get("debug", False)
        objection = find_objection(self._environ, in_foreground=bool(in_foreground))
        if objection is not None:
            raise InvalidOptions([f"--reload: {objection}"])
        environ = dict(self._environ)
        given, _, _ = Sources(self._given, environ, self._file).collect(OPTIONS)
        if given["state"].where == _STATE:
            remove_state_at_exit(environ[_STATE])
        elif given["state"].text is None and given["broker"].text == "memory":
            environ[_STATE] = make_state()
        self._environ = environ
        self.command = CommandLine(
            arguments=[sys.executable, *sys.orig_argv[1:]],
            folder=os.getcwd(),
            environ=environ,
            pidfile=twistd.get("pidfile"),
            execute=self._execute,
        )

    def _blames_code(self, mistakes: InvalidOptions) -> bool:
        """Whether one of the mistakes may be in what an option names in Python."""
        return any(line.startswith(tuple(self._in_code)) for line in mistakes.lines)

    def _choose_loop(self) -> None:
        """Install asyncio's event loop if the options ask for it. Raises InvalidOptions."""
        given, _, _ = Sources(self._given, self._environ, self._file).collect(OPTIONS)
        reason = reason_for_asyncio(given)
        if reason is None:
            return
        loop = given["loop"]
        # A file may have all defaults written out: only the other sources contradict.
        if loop.text == TWISTED and loop.where in ("--loop", "PUSHD_LOOP"):
            raise InvalidOptions(
                [f"{loop.where} {TWISTED}: {reason.where} {reason.text} needs asyncio's event loop"]
            )
        try:
            self._install_asyncio()
        except RuntimeError as error:
            raise InvalidOptions([f"{reason.where} {reason.text}: {error}"]) from None

    def effective(self) -> str:
        """Return a configuration file with the values of all options, and the rules for topics."""
        rules = write_rules(self._file, self.settings.rules)
        return "\n".join([write_values(OPTIONS, self.given), *rules])

    def warnings(self) -> list[str]:
        """Return a line for each option that is valid, but may be a mistake."""
        where = self.given["control"].where
        return [f"warning: {where} {one}: {EXPOSED}" for one in find_exposed(self.settings.control)]

    def resolve(self) -> tuple[Settings, dict[str, Given]]:
        """Return the settings, and what each option was given. Reads the configuration file again.

        Raises InvalidOptions.
        """
        sources = Sources(self._given, self._environ, self._file)
        given, mistakes, topics = sources.collect(OPTIONS)
        for option in OPTIONS:
            text, where = given[option.name]
            if option.metavar.startswith(_IN_CODE) and text is not None:
                self._in_code += [f"{where} {text}: ", f"{where}: "]
        values, invalid = parse(OPTIONS, given)
        rules, wrong = read_rules(self._file, topics, values)
        mistakes += invalid + wrong
        if not invalid:
            mistakes += [describe_conflict(one, given) for one in find_conflicts(values)]
            if not wrong:
                mistakes += find_rule_conflicts(self._file, rules, values)
        if mistakes:
            # An exception that views raise when they are imported may have a text of many lines.
            raise InvalidOptions([" ".join(mistake.split()) for mistake in mistakes])
        return make_settings(Settings, {**values, "rules": rules}), given

    def _explain(self, error: GetoptError) -> str:
        """Return the line for a command line that getopt cannot parse."""
        takes_value = {name.rstrip("="): name.endswith("=") for name in self.longOpt}
        meant = [name for name in takes_value if name.startswith(error.opt)]
        if error.opt in takes_value:
            if takes_value[error.opt]:
                return f"--{error.opt} needs a value: {_SEE_HELP}"
            return f"--{error.opt} takes no value"
        if len(error.opt) > 1 and meant:
            shown = ", ".join(f"--{name}" for name in sorted(meant))
            return f"--{error.opt} is ambiguous: it is short for {shown}"
        if len(error.opt) == 1:
            return f"unknown option -{error.opt}: options begin with two dashes, {_SEE_HELP}"
        near = closest(error.opt, takes_value)
        guess = f"--{near}" if near else None
        line = unknown_option(f"--{error.opt}", guess)
        return line if guess else f"{line}: {_SEE_HELP}"


def _print_and_exit(text: str) -> SystemExit:
    """Print what was asked for, and return the exit; the reader may have gone, as head does."""
    try:
        print(text, flush=True)  # noqa: T201 - the output that was asked for
    except BrokenPipeError:
        # Python flushes the rest of the output when it exits, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return SystemExit(0)


def _add_to_command_line(option: Option) -> None:
    """Add the method with which usage.Options takes an option."""

    def opt(self: Options, value: str) -> None:
        self._given.setdefault(option.name, []).append(value)

    opt.__doc__ = option.help
    setattr(Options, f"opt_{option.name.replace('-', '_')}", opt)


for _option in OPTIONS:
    _add_to_command_line(_option)
