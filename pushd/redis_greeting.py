"""From an address to a Redis that will do: where it is, who is there, and why not."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

from pushd.redis_connection import Commands, connect
from pushd.redis_scripts import ALL, Away, Refused, Unsuitable
from pushd.redis_url import RedisAddress

# The first version whose streams can be trimmed by age.
_LEAST_VERSION = (6, 2)

# How long a server may take to accept a connection, in seconds.
_CONNECT = 5.0


async def find(reactor: Any, address: RedisAddress) -> IStreamClientEndpoint:
    """Where the Redis is, or the one that the Sentinels call the master just now."""
    if address.path is not None:
        return UNIXClientEndpoint(reactor, address.path, timeout=_CONNECT)
    host, port = address.hosts[0]
    if address.service is not None:
        host, port = await _ask_sentinels(reactor, address)
    endpoint = HostnameEndpoint(reactor, host.encode(), port, timeout=_CONNECT)
    if address.tls:
        return wrapClientTLS(optionsForClientTLS(host), endpoint, reactor)
    return endpoint


async def greet(
    endpoint: IStreamClientEndpoint, connection: Commands, address: RedisAddress
) -> dict[str, str]:
    """Connect, and find out who is there."""
    await connect(endpoint, connection)
    try:
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            await connection.ask("AUTH", *user, address.password)
        said: bytes = await connection.ask("INFO")
    except Refused as error:
        raise _explain(str(error)) from None
    except Away:
        if connection.garbled:
            raise Unsuitable("this is no Redis: it speaks another language") from None
        raise
    lines = said.decode("latin-1").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def prepare(connection: Commands, address: RedisAddress, server: dict[str, str]) -> None:
    """See that the server will do, and let it know our scripts."""
    version = server.get("redis_version", "")
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if "run_id" not in server or numbers < _LEAST_VERSION:
        raise Unsuitable(f"this is Redis {version or '?'}: 6.2 or newer is needed")
    if server.get("redis_mode") == "cluster":
        raise Unsuitable("this is a Redis Cluster: one Redis, or Sentinel, is needed")
    if server.get("loading") != "0":
        raise Away("it is still loading its data")
    if server.get("role") != "master":
        raise Away("it is a read-only replica")
    try:
        await connection.ask("SELECT", address.db)
        for script in ALL:
            await connection.ask("SCRIPT", "LOAD", script.source)
    except Refused as error:
        raise _explain(str(error)) from None


async def _ask_sentinels(reactor: Any, address: RedisAddress) -> tuple[str, int]:
    said = ""
    for host, port in address.hosts:
        sentinel = Commands()
        endpoint = HostnameEndpoint(reactor, host.encode(), port, timeout=_CONNECT / 2)
        try:
            await connect(endpoint, sentinel)
            asking = sentinel.ask("SENTINEL", "get-master-addr-by-name", address.service)
            found = await asking.addTimeout(_CONNECT / 2, reactor)
        except Exception as error:
            said = f": {error}"
            continue
        finally:
            sentinel.abandon()
        if found is not None:
            return found[0].decode(), int(found[1])
    raise Away(f"no Sentinel knows the master {address.service}{said}")


def _explain(error: str) -> Exception:
    """What an error means that a server has greeted us with."""
    code = error.partition(" ")[0]
    if code in ("LOADING", "MASTERDOWN", "BUSY", "OOM", "READONLY", "MISCONF"):
        return Away(error)
    if code == "WRONGPASS" or "invalid password" in error:
        return Unsuitable("wrong user or password")
    if code == "NOAUTH":
        return Unsuitable("it wants a password")
    return Unsuitable(error)
