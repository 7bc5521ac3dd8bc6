"""One connection to a Redis server: found, checked and opened, with errors in our own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from txredisapi import (
    ConnectionError as LibraryConnectionError,
)
from txredisapi import (
    HiredisProtocol,
    InvalidData,
    ResponseError,
    SubscriberProtocol,
)

from pushd.errors import RedisError, RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.scripts import ALL


class CommandConnection(HiredisProtocol):
    """A connection for commands. Everything is bytes, nothing is converted."""

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)
        #: Whether it has spoken another language than Redis'.
        self.garbled = False
        #: Why it ended.
        self.reason = ""
        #: What is called then.
        self.lost: Callable[[], None] = ignore

    def ask(self, *args: Any) -> Deferred[Any]:
        """Run a command. Fails with Refused or Away."""
        try:
            asked: Deferred[Any] = self.execute_command(*args)
        except LibraryConnectionError:
            return fail(RedisUnavailable(self.reason))
        return asked.addErrback(self._translate)

    def abandon(self) -> None:
        """End it, if it has begun, without waiting for anything."""
        if self.transport is not None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Take what came; what is not Redis' language ends the connection."""
        try:
            super().dataReceived(data, unpause)
        except InvalidData:
            self.garbled = True
            self.transport.abortConnection()

    def connectionLost(self, why: Failure = connectionDone) -> None:
        """Note why it ended."""
        self.reason = f"the connection was lost: {why.getErrorMessage()}"
        # First this, so that who is told next that a command has failed does not try it here again.
        self.lost()
        super().connectionLost(why)

    def _translate(self, failure: Failure) -> Any:
        if failure.check(ResponseError):
            raise RedisError(" ".join(str(failure.value).split()))
        if failure.check(LibraryConnectionError):
            raise RedisUnavailable(self.reason)
        return failure


class SubscriberConnection(CommandConnection, SubscriberProtocol):
    """A connection for what is published."""

    def __init__(self, notice: Callable[[bytes, bytes], None]) -> None:
        super().__init__()
        self._notice = notice

    def messageReceived(self, pattern: bytes | None, channel: bytes, message: bytes) -> None:
        """Take what was published."""
        self._notice(channel, message)


class _Once(Factory):
    """Makes one connection, and no line in the log."""

    noisy = False

    def __init__(self, connection: CommandConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> CommandConnection:
        return self._connection


async def connect(endpoint: IStreamClientEndpoint, connection: CommandConnection) -> None:
    """Connect to an endpoint; raises Away, which says why not."""
    try:
        await endpoint.connect(_Once(connection))
    except Exception as error:
        raise RedisUnavailable(" ".join(str(error).split()) or type(error).__name__) from None


def ignore() -> None:
    """Do nothing, as nobody is to be told."""


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
    endpoint: IStreamClientEndpoint, connection: CommandConnection, address: RedisAddress
) -> dict[str, str]:
    """Connect, and find out who is there."""
    await connect(endpoint, connection)
    try:
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            await connection.ask("AUTH", *user, address.password)
        said: bytes = await connection.ask("INFO")
    except RedisError as error:
        raise _explain(str(error)) from None
    except RedisUnavailable:
        if connection.garbled:
            raise RedisMisconfigured("this is no Redis: it speaks another language") from None
        raise
    lines = said.decode("latin-1").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def prepare(
    connection: CommandConnection, address: RedisAddress, server: dict[str, str]
) -> None:
    """See that the server will do, and let it know our scripts."""
    version = server.get("redis_version", "")
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if "run_id" not in server or numbers < _LEAST_VERSION:
        raise RedisMisconfigured(f"this is Redis {version or '?'}: 6.2 or newer is needed")
    if server.get("redis_mode") == "cluster":
        raise RedisMisconfigured("this is a Redis Cluster: one Redis, or Sentinel, is needed")
    if server.get("loading") != "0":
        raise RedisUnavailable("it is still loading its data")
    if server.get("role") != "master":
        raise RedisUnavailable("it is a read-only replica")
    try:
        await connection.ask("SELECT", address.db)
        for script in ALL:
            await connection.ask("SCRIPT", "LOAD", script.source)
    except RedisError as error:
        raise _explain(str(error)) from None


async def _ask_sentinels(reactor: Any, address: RedisAddress) -> tuple[str, int]:
    said = ""
    for host, port in address.hosts:
        sentinel = CommandConnection()
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
    raise RedisUnavailable(f"no Sentinel knows the master {address.service}{said}")


def _explain(error: str) -> Exception:
    """What an error means that a server has greeted us with."""
    code = error.partition(" ")[0]
    if code in ("LOADING", "MASTERDOWN", "BUSY", "OOM", "READONLY", "MISCONF"):
        return RedisUnavailable(error)
    if code == "WRONGPASS" or "invalid password" in error:
        return RedisMisconfigured("wrong user or password")
    if code == "NOAUTH":
        return RedisMisconfigured("it wants a password")
    return RedisMisconfigured(error)
