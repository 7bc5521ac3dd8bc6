"""The commands ``pushdctl`` and ``pushd``: parse the command line, run a command, report errors."""

from __future__ import annotations

from collections.abc import Sequence

from pushd.client import commands
from pushd.client.arguments import make_parser, suggest
from pushd.errors import PushdError, Unreachable


def run(arguments: Sequence[str], runtime: commands.CommandRuntime) -> int:
    """Run a command line.

    Returns the exit code: 0 for success, 1 after one line about an error, 130 after Ctrl-C. Raises
    BrokenPipeError if the reader of the output has gone.
    """
    parser = make_parser(runtime.environ)
    arguments = parser.reorder(arguments)
    parser.check_command(arguments)
    given, rest = parser.parse_known_args(arguments)
    if given.action is None and not rest:
        parser.print_help(runtime.stderr)
        return 1
    if given.action is commands.publish and given.data is None and _is_data(rest):
        # argparse expects an optional DATA directly after TOPIC, not after options.
        given.data = rest.pop()
    if given.action is commands.check:
        given.rest = rest
    elif rest:
        kind = "unknown option" if rest[0].startswith("-") else "unexpected argument"
        given.parser.error(
            suggest(kind, rest[0].partition("=")[0], [one.name for one in given.parser.options])
        )
    try:
        given.action(given, runtime)
        runtime.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (PushdError, ValueError) as error:
        hint = ""
        if isinstance(error, Unreachable):
            options = "--control or PUSHD_CONTROL_URL"
            if given.action is commands.tail:
                options = "--url or PUSHD_URL"
            elif getattr(given, "url", None) is not None:
                options = "--url" if given.action is commands.health else "--url and --control"
            hint = f"; is the daemon running? Its address is set with {options}"
        # The text may be from a server; that about mistakes in options has a line for each.
        lines = "\n".join(map(commands.printable, str(error).split("\n")))
        print(f"pushd: {lines}{hint}", file=runtime.stderr)
        return 1
    return 0


def _is_data(rest: Sequence[str]) -> bool:
    """Whether the arguments that were not parsed can be the data to publish."""
    return len(rest) == 1 and not rest[0].startswith("-")
