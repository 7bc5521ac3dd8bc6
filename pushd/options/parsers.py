"""Parsers of options: each makes a value from a text, or raises ValueError or TypeError."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, cast

from twisted.internet.endpoints import serverFromString
from twisted.logger import LogLevel

from pushd.access.keys import read_secret
from pushd.gateways.application import Application
from pushd.gateways.asgi.scope import Application as AsgiApplication
from pushd.protocols.certificate import explain
from pushd.protocols.http.policy import DEFAULT_CSP
from pushd.topics.publication import check_topic
from pushd.views.authorizer import AuthorizeFunction
from pushd.views.routes import Routes, load, load_routes

#: Values of ``--log-level``: messages below the level are not logged.
LEVELS = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
}

# The value of --control that closes the control port, and of --csp that sends no policy.
_NONE = "none"

#: Prefix of an endpoint behind a proxy that speaks the PROXY protocol.
BEHIND_PROXY = "haproxy:"

# The name of a directive of a Content-Security-Policy (CSP Level 3, §6). All but two have a dash:
# browsers would ignore the policy "off".
_DIRECTIVE = re.compile(r"[A-Za-z]+(-[A-Za-z]+)+|sandbox|webrtc", re.IGNORECASE)

# Keywords of a policy, which stand in single quotes: without them they would be names of hosts.
_CSP_KEYWORDS = frozenset({"self", "none", "unsafe-inline", "unsafe-eval", "strict-dynamic"})

# A socket that systemd opens. It cannot be parsed further: the daemon inherits the descriptors, but
# a check of the options does not.
_SYSTEMD = re.compile(r"systemd:domain=(INET6?|UNIX):(index=[0-9]{1,4}|name=[^:]+)")

_MAX_PORT = (1 << 16) - 1

_ENDPOINT = "must be an endpoint such as tcp:8080 or unix:/run/pushd.sock"


def parse_stragglers(given: str | None) -> int | None:
    """Return the maximum number of stragglers; None if it is not given."""
    return None if given is None else number(0, 100_000)(given)


def parse_listen(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the endpoints of the public port: one or more."""
    if not given:
        raise ValueError(_ENDPOINT)
    for endpoint in given:
        plain = endpoint.removeprefix(BEHIND_PROXY)
        if _SYSTEMD.fullmatch(plain):
            continue
        which = f"; got {endpoint}" if len(given) > 1 else ""
        try:
            port = getattr(serverFromString(None, plain), "_port", 0)
        except Exception as error:
            # Plugins that parse endpoints may raise anything.
            if (reason := explain(error)) is not None:
                raise ValueError(f"{reason}{which}") from None
            raise ValueError(f"{_ENDPOINT}{which} ({error})") from None
        if isinstance(port, int) and not 0 <= port <= _MAX_PORT:
            raise ValueError(f"must have a port from 0 to {_MAX_PORT}; got {port}")
    return given


def parse_control(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the endpoints of the control port; none if it is closed."""
    if not given:
        return ()
    if _NONE not in given:
        return parse_listen(given)
    if len(given) > 1:
        raise ValueError(f"{_NONE} cannot be combined with another endpoint")
    return ()


def parse_csp(given: str) -> str:
    """Return a Content-Security-Policy; an empty text for ``none``."""
    if given == _NONE:
        return ""
    directives = [words for part in given.split(";") if (words := part.split())]
    is_text = given.isascii() and given.isprintable()
    if (
        not is_text
        or not directives
        or not all(_DIRECTIVE.fullmatch(one) for one, *_ in directives)
    ):
        raise ValueError(f"must be a Content-Security-Policy such as {DEFAULT_CSP}, or {_NONE}")
    for word in chain(*directives):
        if word.lower() in _CSP_KEYWORDS:
            raise ValueError(f"must have {word} in single quotes: '{word}'")
    return given


def parse_folder(given: str | None) -> Path | None:
    """Return the absolute path of a directory that exists."""
    if given is None:
        return None
    folder = Path(given)
    # An empty path would be the current directory, which must not be published by mistake.
    if not given or not folder.is_dir():
        raise ValueError("must be a directory that exists")
    return folder.resolve()


def parse_state(given: str | None) -> Path | None:
    """Return the absolute path of a directory that exists, or can be made in one that does."""
    if given is None:
        return None
    folder = Path(given).resolve()
    if not given or not (folder.is_dir() or (not folder.exists() and folder.parent.is_dir())):
        raise ValueError("must be a directory, or a new one in a directory that exists")
    return folder


def number(least: int, most: int) -> Callable[[str], int]:
    """Make a parser of whole numbers in a range that includes both ends."""

    def parse(given: str) -> int:
        # int() would accept " 1_0 ", and raise for thousands of digits.
        if not re.fullmatch(r"[0-9]{1,12}", given) or not least <= int(given) <= most:
            raise ValueError(f"must be a number from {least} to {most}")
        return int(given)

    return parse


def parse_switch(given: str) -> bool:
    """Return True for ``on`` and False for ``off``."""
    return one_of("on", "off")(given) == "on"


def one_of(*allowed: str) -> Callable[[str], str]:
    """Make a parser that allows some words only."""

    def parse(given: str) -> str:
        if given not in allowed:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}")
        return given

    return parse


def parse_views(given: str | None) -> Routes | None:
    """Import a map of views, such as ``chat.views:urls``."""
    return None if given is None else load_routes(given)


def parse_wsgi(given: str | None) -> Application | None:
    """Import a WSGI application, such as ``site.wsgi:application``."""
    if given is None:
        return None
    application = load(given)
    if not callable(application):
        raise TypeError(f"must be a WSGI application; got a {type(application).__name__}")
    return cast(Application, application)


def parse_asgi(given: str | None) -> AsgiApplication | None:
    """Import an ASGI application, such as ``site.asgi:application``, or call what makes one.

    With ``()`` at the end the name is that of a function without arguments, which returns it.
    """
    if given is None:
        return None
    made = given.endswith("()")
    application = load(given.removesuffix("()"))
    if made and callable(application):
        application = application()
    if not callable(application):
        raise TypeError(f"must be an ASGI application; got a {type(application).__name__}")
    return cast(AsgiApplication, application)


def parse_root_path(given: str) -> str:
    """Return a path such as ``/shop``; empty for none."""
    path = given.rstrip("/")
    if path and not path.startswith("/"):
        raise ValueError("must begin with /")
    return path


def parse_centrifuge_path(given: str) -> str:
    """Return a path such as ``/connection``, without a slash at the end."""
    path = given.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("must be a path such as /connection")
    return path


def parse_secret_file(given: str | None) -> bytes | None:
    """Return the contents of a file with a secret, without blanks around it."""
    return None if given is None else read_secret(given).material


def parse_personal(given: str) -> str:
    """Return the pattern of the topics of users, such as ``users/*``; empty for none."""
    if given and (given.count("*") != 1 or not _is_topic(given.replace("*", "user"))):
        raise ValueError("must be a topic with one *, such as users/*")
    return given


def _is_topic(name: str) -> bool:
    try:
        check_topic(name)
    except ValueError:
        return False
    return True


def parse_rpc(given: str | None) -> Callable[..., Any] | None:
    """Import a function for remote procedure calls, such as ``chat.procedures:call``."""
    if given is None:
        return None
    function = load(given)
    if not callable(function):
        raise TypeError(f"must be a function; got a {type(function).__name__}")
    return cast(Callable[..., Any], function)


def parse_authorize(given: str | None) -> AuthorizeFunction | None:
    """Import an authorizer, such as ``chat.access:may``."""
    if given is None:
        return None
    authorizer = load(given)
    if not callable(authorizer):
        raise TypeError(f"must be an authorizer; got a {type(authorizer).__name__}")
    return cast(AuthorizeFunction, authorizer)
