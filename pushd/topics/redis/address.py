"""The address of Redis, as it is given with ``--broker``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

#: The default ports of Redis and of Sentinel.
REDIS_PORT = 6379
SENTINEL_PORT = 26379

_FORMS = (
    "memory, redis://[user:password@]host[:port][/db], rediss://…, "
    "unix://[user:password@]/path[?db=n], or redis+sentinel://host[:port],…/service[/db]; "
    "each with prefix=NAME after ? or &, for several deployments on one Redis"
)

#: The prefix of the names of keys and channels.
PREFIX = "pushd"

_MARKS = (
    "after ? only prefix=NAME is allowed, and db=n for a Unix socket; in a password write ? and # "
    "as %3F and %23"
)

# A colon would make names of one deployment look like those of another.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """One Redis, or the Sentinels that name the master. ``str`` does not show the password."""

    #: Host and port of Redis, or of each Sentinel; empty for a Unix socket.
    hosts: tuple[tuple[str, int], ...] = ()
    #: The path of a Unix socket.
    path: str | None = None
    #: The name of the master, if the hosts are Sentinels.
    service: str | None = None
    tls: bool = False
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    #: What the names of all keys and channels begin with.
    prefix: str = PREFIX

    def __str__(self) -> str:
        login = f"{self.user or ''}:***@" if self.password is not None else ""
        if self.path is not None:
            return f"unix://{login}{self.path}?db={self.db}{self._prefix('&')}"
        scheme = "redis+sentinel" if self.service is not None else "rediss" if self.tls else "redis"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        service = f"/{self.service}" if self.service is not None else ""
        return f"{scheme}://{login}{hosts}{service}/{self.db}{self._prefix('?')}"

    def _prefix(self, mark: str) -> str:
        return "" if self.prefix == PREFIX else f"{mark}prefix={self.prefix}"


def parse_broker(given: str) -> RedisAddress | None:
    """Parse the value of ``--broker``; None for ``memory``. Raises ValueError with the rule.

    The error does not repeat the value, as it may contain a password.
    """
    if given == "memory":
        return None
    try:
        url = urlsplit(given)
        return _PARSERS[url.scheme](url)
    except (KeyError, ValueError) as error:
        details = f" ({error})" if isinstance(error, _InvalidAddress) else ""
        raise ValueError(f"must be {_FORMS}{details}") from None


class _InvalidAddress(ValueError):
    """An invalid address. The text contains nothing of it, so that it shows no password."""


def _parse_plain(url: SplitResult) -> RedisAddress:
    login, hosts = _parse_hosts(url, REDIS_PORT)
    if len(hosts) != 1:
        raise _InvalidAddress("several hosts are allowed with redis+sentinel:// only")
    prefix = _parse_prefix(_parse_query(url))
    db = _parse_db(url.path.removeprefix("/"))
    return RedisAddress(hosts=hosts, tls=url.scheme == "rediss", db=db, prefix=prefix, **login)


def _parse_sentinel(url: SplitResult) -> RedisAddress:
    login, hosts = _parse_hosts(url, SENTINEL_PORT)
    prefix = _parse_prefix(_parse_query(url))
    service, _, db = url.path.removeprefix("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", service):
        raise _InvalidAddress("the name of the master must be letters, digits and ._-")
    return RedisAddress(hosts=hosts, service=service, db=_parse_db(db), prefix=prefix, **login)


def _parse_unix(url: SplitResult) -> RedisAddress:
    login, _, host = url.netloc.rpartition("@")
    query = _parse_query(url)
    db = _parse_db(query.pop("db", ["0"])[-1])
    if host or len(url.path) < 2:
        raise _InvalidAddress("a Unix socket must be given as unix:///path?db=n")
    prefix = _parse_prefix(query)
    return RedisAddress(path=unquote(url.path), db=db, prefix=prefix, **_parse_login(login))


def _parse_hosts(url: SplitResult, port: int) -> tuple[dict[str, Any], tuple[tuple[str, int], ...]]:
    login, _, hosts = url.netloc.rpartition("@")
    return _parse_login(login), tuple(_parse_host(host, port) for host in hosts.split(","))


def _parse_login(login: str) -> dict[str, Any]:
    user, colon, password = login.partition(":")
    if login and not (colon and password):
        raise _InvalidAddress("a password is missing: write user:password@ or :password@")
    return {
        "user": unquote(user) or None,
        "password": unquote(password, errors="strict") if colon else None,
    }


def _parse_host(host: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", host)
    if match is None or not 0 < int(match[2] or port) < 65536:
        raise _InvalidAddress("a host must be a name or an address, with a port from 1 to 65535")
    return match[1].strip("[]"), int(match[2] or port)


def _parse_db(given: str) -> int:
    if not re.fullmatch(r"[0-9]{0,5}", given):
        raise _InvalidAddress("the database must be a number")
    return int(given or 0)


def _parse_query(url: SplitResult) -> dict[str, list[str]]:
    if url.fragment:
        raise _InvalidAddress(_MARKS)
    try:
        return parse_qs(url.query, strict_parsing=bool(url.query), keep_blank_values=True)
    except ValueError:
        raise _InvalidAddress(_MARKS) from None


def _parse_prefix(query: dict[str, list[str]]) -> str:
    """Return the prefix in the rest of a query."""
    prefix = query.pop("prefix", [PREFIX])[-1]
    if query:
        raise _InvalidAddress(_MARKS)
    if not _PREFIX.fullmatch(prefix):
        raise _InvalidAddress("the prefix must be 1 to 64 letters, digits and ._-")
    return prefix


_PARSERS = {
    "redis": _parse_plain,
    "rediss": _parse_plain,
    "unix": _parse_unix,
    "redis+sentinel": _parse_sentinel,
}


def find_missing_package() -> str | None:
    """Return in one line what to install if the package for Redis is missing; None if not."""
    try:
        import_module("hiredis")
    except ImportError as error:
        return f"pip install 'pushd[redis]' ({error})"
    return None
