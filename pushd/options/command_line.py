"""The command line of ``twistd pushd``, and the settings that it amounts to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from pushd import __version__
from pushd.errors import InvalidOptions
from pushd.options.option import Option, make_settings
from pushd.options.settings import Settings
from pushd.options.sources import (
    Given,
    Sources,
    describe_clash,
    parse,
    write_defaults,
    write_values,
)
from pushd.options.table import COMBINATIONS, OPTIONS


class Options(UsageOptions):
    """The options of ``twistd pushd``; ``settings`` holds what they amount to.

    Mistakes end the process with exit code 1 and one line for each, which names the option, what
    was given, and what is allowed.

    :param environ: the environment; None for that of the process.
    """

    synopsis = "[options]"
    longdesc = "Serves views over WebSocket and HTTP, and the static client beside them."

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._given: dict[str, list[str]] = {}
        self._file = self._environ.get("PUSHD_CONFIG")
        self._check = False
        super().__init__()
        self.settings = Settings()
        #: What each option was given, and where.
        self.given: dict[str, Given] = {}

    def opt_config(self, path: str) -> None:
        """A TOML file with any of these options, by these names."""
        self._file = path

    def opt_check(self) -> None:
        """Print what would be in force, or every mistake, and exit."""
        self._check = True

    def opt_print_config(self) -> None:
        """Print a file for --config with all defaults, and exit."""
        print(write_defaults(OPTIONS), end="")  # noqa: T201 - the answer to the one who asked
        raise SystemExit(0)

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"pushd {__version__}")  # noqa: T201 - the answer to the one who asked
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        """Take nothing but options."""
        if args:
            raise UsageError(f"there are options only, and {args[0]!r} is none")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse and validate the command line."""
        try:
            super().parseOptions(options)
        except UsageError as error:
            # twistd would print all the help above this line.
            raise SystemExit(f"pushd: {error}") from None

    def postOptions(self) -> None:
        """Make the settings of what was given."""
        try:
            self.settings, self.given = self.resolve()
        except InvalidOptions as mistakes:
            raise SystemExit("\n".join(f"pushd: {line}" for line in mistakes.lines)) from None
        if self._check:
            print(write_values(OPTIONS, self.given))  # noqa: T201 - the answer to the one who asked
            raise SystemExit(0)

    def resolve(self) -> tuple[Settings, dict[str, Given]]:
        """Give the settings, and what each option was given, the file being what it is now.

        Raises Mistakes.
        """
        given, mistakes = Sources(self._given, self._environ, self._file).collect(OPTIONS)
        values, wrong = parse(OPTIONS, given)
        mistakes += wrong
        if not wrong:
            clashes = [clash for find in COMBINATIONS for clash in find(values)]
            mistakes += [describe_clash(clash, given) for clash in clashes]
        if mistakes:
            # One line each, whatever an exception of others had to say.
            raise InvalidOptions([" ".join(mistake.split()) for mistake in mistakes])
        return make_settings(Settings, values), given


def _add_to_command_line(option: Option) -> None:
    """Give usage.Options the method that it looks for."""

    def opt(self: Options, value: str) -> None:
        self._given.setdefault(option.name, []).append(value)

    default = option.default if isinstance(option.default, str) else " ".join(option.default or ())
    opt.__doc__ = f"{option.help} [default: {default}]" if default else option.help
    setattr(Options, f"opt_{option.name.replace('-', '_')}", opt)


for _option in OPTIONS:
    _add_to_command_line(_option)
