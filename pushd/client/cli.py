"""The command for people: publish, listen, look who is here, make a token."""

from __future__ import annotations

from collections.abc import Sequence

from pushd.client import commands as actions
from pushd.client.arguments import make_parser
from pushd.errors import PushdError, Unreachable


def run(arguments: Sequence[str], world: actions.World) -> int:
    """Do what a command line says.

    Returns the exit code: 0, or 1 after one line that says what went wrong; 130 for Ctrl-C. Raises
    BrokenPipeError when nobody reads what it prints.
    """
    parser = make_parser(world.environ)
    given, rest = parser.parse_known_args(arguments)
    if given.action is None:
        parser.print_help(world.stderr)
        return 1
    if given.action is actions.publish and given.data is None and _is_data(rest):
        # argparse looks for DATA right behind TOPIC only, once that may be left out.
        given.data = rest.pop()
    if given.action is actions.check:
        given.rest = rest
    elif rest:
        parser.error(f"{rest[0]} is not understood")
    try:
        given.action(given, world)
        world.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (PushdError, ValueError) as error:
        hint = ""
        if isinstance(error, Unreachable):
            name = "url" if given.action is actions.tail else "control"
            variable = {"url": "PUSHD_URL", "control": "PUSHD_CONTROL_URL"}[name]
            hint = f"; is the daemon running? --{name} or {variable} says where"
        print(f"pushd: {error}{hint}", file=world.stderr)
        return 1
    return 0


def _is_data(rest: Sequence[str]) -> bool:
    """Whether what was left over can be what is to be published."""
    return len(rest) == 1 and not rest[0].startswith("-")
