"""What the texts of options amount to; ValueError and TypeError say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

from twisted.internet.endpoints import serverFromString
from twisted.logger import (
    LogLevel,
)

from pushd.gateways.environ import Application
from pushd.views.routes import Routes, load, load_routes

#: What ``--log-level`` may be: what is below it is not written.
LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}


# What stands for no endpoint at all.
_NONE = "none"

# An endpoint that systemd opens: what a check of the options can see of it, as the descriptors
# come to the daemon only.
_SYSTEMD = re.compile(r"systemd:domain=(INET6?|UNIX):(index=[0-9]{1,4}|name=[^:]+)")


_MAX_PORT = (1 << 16) - 1


def parse_listen(given: tuple[str, ...]) -> tuple[str, ...]:
    """Endpoints, one or more."""
    if not given:
        raise ValueError("an endpoint like tcp:8080 or unix:/run/pushd.sock")
    for endpoint in given:
        if _SYSTEMD.fullmatch(endpoint):
            continue
        try:
            port = getattr(serverFromString(None, endpoint), "_port", 0)
        except Exception as error:
            # Endpoint plugins raise what they like, for a mistake in any of their arguments.
            raise ValueError(
                f"no endpoint like tcp:8080 or unix:/run/pushd.sock ({error})"
            ) from None
        if isinstance(port, int) and not 0 <= port <= _MAX_PORT:
            raise ValueError(f"a port from 0 to {_MAX_PORT}, not {port}")
    return given


def parse_control(given: tuple[str, ...]) -> tuple[str, ...]:
    """Endpoints, or none."""
    if not given:
        return ()
    if _NONE not in given:
        return parse_listen(given)
    if len(given) > 1:
        raise ValueError(f"{_NONE} goes with no other --control")
    return ()


def parse_folder(given: str | None) -> Path | None:
    """A folder that is there."""
    if given is None:
        return None
    folder = Path(given)
    # No name at all would be the current folder, which nobody means to show to the world.
    if not given or not folder.is_dir():
        raise ValueError("not a folder")
    return folder.resolve()


def number(least: int, most: int) -> Callable[[str], int]:
    """A whole number in a range, its ends included."""

    def parse(given: str) -> int:
        # int() would take " 1_0 " as well, and raises for thousands of digits.
        if not re.fullmatch(r"[0-9]{1,12}", given) or not least <= int(given) <= most:
            raise ValueError(f"a number from {least} to {most}")
        return int(given)

    return parse


def parse_switch(given: str) -> bool:
    """On or off."""
    return one_of("on", "off")(given) == "on"


def one_of(*allowed: str) -> Callable[[str], str]:
    """One word of some."""

    def parse(given: str) -> str:
        if given not in allowed:
            raise ValueError(f"{', '.join(allowed[:-1])} or {allowed[-1]}")
        return given

    return parse


def parse_views(given: str | None) -> Routes | None:
    """A map of views that can be imported."""
    return None if given is None else load_routes(given)


def parse_wsgi(given: str | None) -> Application | None:
    """A WSGI application that can be imported."""
    if given is None:
        return None
    application = load(given)
    if not callable(application):
        raise TypeError(f"no WSGI application but a {type(application).__name__}")
    return cast(Application, application)
