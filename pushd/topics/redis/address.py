"""Where Redis is, as ``--broker`` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

#: What Redis listens on unless told otherwise, and what Sentinel does.
REDIS_PORT = 6379
SENTINEL_PORT = 26379

_FORMS = (
    "memory, redis://[user:password@]host[:port][/db], rediss://…, "
    "unix://[user:password@]/path[?db=n], or redis+sentinel://host[:port],…/service[/db]"
)


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """One Redis, or the Sentinels that know which Redis is the master. Its text has no password."""

    #: Host and port of the Redis, or of each Sentinel; none where it is a socket of this machine.
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    #: What the Sentinels call the master; None where there are no Sentinels.
    service: str | None = None
    tls: bool = False
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        who = f"{self.user or ''}:***@" if self.password is not None else ""
        if self.path is not None:
            return f"unix://{who}{self.path}?db={self.db}"
        kind = "redis+sentinel" if self.service is not None else "rediss" if self.tls else "redis"
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        service = f"/{self.service}" if self.service is not None else ""
        return f"{kind}://{who}{hosts}{service}/{self.db}"


def parse_broker(given: str) -> RedisAddress | None:
    """Read ``--broker``: None for ``memory``. Raises ValueError that says what is allowed.

    The error does not repeat what was given: there may be a password in it.
    """
    if given == "memory":
        return None
    try:
        url = urlsplit(given)
        return _READERS[url.scheme](url)
    except (KeyError, ValueError) as error:
        said = f" ({error})" if isinstance(error, _Wrong) else ""
        raise ValueError(f"one of {_FORMS}{said}") from None


class _Wrong(ValueError):
    """What is wrong, in words that hold nothing of the password."""


def _read_plain(url: SplitResult) -> RedisAddress:
    who, hosts = _read_place(url, REDIS_PORT)
    if len(hosts) != 1:
        raise _Wrong("more hosts than one are for redis+sentinel")
    _refuse_rest(url)
    db = _read_db(url.path.removeprefix("/"))
    return RedisAddress(hosts=hosts, tls=url.scheme == "rediss", db=db, **who)


def _read_sentinel(url: SplitResult) -> RedisAddress:
    who, hosts = _read_place(url, SENTINEL_PORT)
    _refuse_rest(url)
    service, _, db = url.path.removeprefix("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", service):
        raise _Wrong("the name of the master is letters, digits and ._-")
    return RedisAddress(hosts=hosts, service=service, db=_read_db(db), **who)


def _read_unix(url: SplitResult) -> RedisAddress:
    who, _, place = url.netloc.rpartition("@")
    query = parse_qs(url.query, strict_parsing=bool(url.query), keep_blank_values=True)
    db = query.pop("db", ["0"])[-1]
    if place or query or url.fragment or len(url.path) < 2:
        raise _Wrong("a socket is unix:///path?db=n")
    return RedisAddress(path=unquote(url.path), db=_read_db(db), **_read_user(who))


def _read_place(url: SplitResult, port: int) -> tuple[dict[str, Any], tuple[tuple[str, int], ...]]:
    who, _, places = url.netloc.rpartition("@")
    return _read_user(who), tuple(_read_host(place, port) for place in places.split(","))


def _read_user(who: str) -> dict[str, Any]:
    user, colon, password = who.partition(":")
    if who and not (colon and password):
        raise _Wrong("a user has a password: user:password@, or :password@")
    return {
        "user": unquote(user) or None,
        "password": unquote(password, errors="strict") if colon else None,
    }


def _read_host(place: str, port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", place)
    if match is None or not 0 < int(match[2] or port) < 65536:
        raise _Wrong("a host is a name or an address, with a port from 1 to 65535")
    return match[1].strip("[]"), int(match[2] or port)


def _read_db(given: str) -> int:
    if not re.fullmatch(r"[0-9]{0,5}", given):
        raise _Wrong("a database is a number")
    return int(given or 0)


def _refuse_rest(url: SplitResult) -> None:
    if url.query or url.fragment:
        raise _Wrong("it has no ? and no #; in a password they are %3F and %23")


_READERS = {
    "redis": _read_plain,
    "rediss": _read_plain,
    "unix": _read_unix,
    "redis+sentinel": _read_sentinel,
}
