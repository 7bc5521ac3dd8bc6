"""Values of options that are valid, and conflict with each other or open too much."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from twisted.internet.endpoints import serverFromString

from pushd.gateways.application import find_authorizer
from pushd.options.option import Values
from pushd.options.parsers import BEHIND_PROXY
from pushd.options.sources import Conflict

# An endpoint for which the system picks a free port, a different one each time.
_ANY_PORT = re.compile(r"(haproxy:)?(tcp6?|ssl):0(:|$)")


def _find_shared_endpoints(values: Values) -> Iterator[Conflict]:
    """Find endpoints that are given twice: only the first could listen there."""
    for endpoint, count in Counter(values["listen"] + values["control"]).items():
        if count > 1 and not _ANY_PORT.match(endpoint):
            names = tuple(name for name in ("listen", "control") if endpoint in values[name])
            yield Conflict(names, f"the endpoint {endpoint} is given {count} times")


def _find_wrong_authorizer(values: Values) -> Iterator[Conflict]:
    """Find a setting of a Django site that names no function."""
    if values["authorize"] is None:
        for name in ("wsgi", "asgi"):
            if values[name] is not None:
                try:
                    find_authorizer()
                except Exception as error:  # The module of the function may raise anything.
                    yield Conflict((name,), str(error))


def has_authorizer(values: Values) -> bool:
    """Return whether there is an authorizer, or a setting of a Django site that should name one."""
    if values["authorize"] is not None or (values["wsgi"] is None and values["asgi"] is None):
        return values["authorize"] is not None
    try:
        return find_authorizer() is not None
    except Exception:  # It is among the conflicts.
        return True


def _find_two_applications(values: Values) -> Iterator[Conflict]:
    """Find two applications for the same paths."""
    if values["wsgi"] is not None and values["asgi"] is not None:
        yield Conflict(("wsgi", "asgi"), "only one application can have all other paths")


def _find_unused(values: Values) -> Iterator[Conflict]:
    """Find options of what the daemon does not serve: an ASGI application, Centrifuge clients."""
    if values["root-path"] and values["asgi"] is None:
        yield Conflict(("root-path",), "needs --asgi")
    for name in ("centrifuge-personal", "rpc", "api-key"):
        if values[name] and not values["centrifuge"]:
            yield Conflict((name,), "needs --centrifuge on")


def find_conflicts(values: Values) -> list[Conflict]:
    """Find all conflicts in the values of all options."""
    return [
        *_find_shared_endpoints(values),
        *_find_wrong_authorizer(values),
        *_find_two_applications(values),
        *_find_unused(values),
    ]


#: What is wrong with a control port that other machines can reach.
EXPOSED = (
    "the control port has no password, and every machine that reaches this address is trusted: use "
    "interface=127.0.0.1 or a Unix socket, or let a firewall protect it (docs/security.md)"
)


def find_exposed(endpoints: Iterable[str]) -> Iterator[str]:
    """Find endpoints of the control port that other machines may reach.

    Sockets that systemd passes are not among them: their addresses are known once they are open.
    """
    for endpoint in endpoints:
        plain = endpoint.removeprefix(BEHIND_PROXY)
        if plain.startswith(("unix:", "systemd:")):
            continue
        # Endpoints of a plugin may have no such attribute, and are taken for open.
        if not is_loopback(getattr(serverFromString(None, plain), "_interface", "")):
            yield endpoint


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address that it listens on."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
