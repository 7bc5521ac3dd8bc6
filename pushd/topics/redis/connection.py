"""A connection to a Redis server: found, authenticated and checked, with errors of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
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

# The first version whose streams can be trimmed by id.
_MIN_VERSION = (6, 2)

# How long a server may take to accept a connection, in seconds.
_CONNECT_TIMEOUT = 5.0


class CommandConnection(HiredisProtocol):
    """A connection that runs commands. Strings in answers are bytes; numbers are not converted."""

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)
        #: True once the server has sent something that is not the protocol of Redis.
        self.garbled = False
        #: Why the connection ended.
        self.reason = ""
        #: Called when the connection has ended.
        self.on_lost: Callable[[], None] = ignore

    def run(self, *args: Any) -> Deferred[Any]:
        """Run a command; nothing is raised. Fails with RedisError or RedisUnavailable."""
        running: Deferred[Any] = maybeDeferred(self.execute_command, *args)
        return running.addErrback(self._translate)

    def abort(self) -> None:
        """Close the connection, if it is open, without waiting."""
        if self.transport is not None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        """Parse answers. Data that is not the protocol of Redis ends the connection."""
        try:
            super().dataReceived(data, unpause)
        except InvalidData:
            self.garbled = True
            self.transport.abortConnection()

    def connectionLost(self, why: Failure = connectionDone) -> None:
        """Record the reason, call ``on_lost``, and make pending commands fail."""
        self.reason = f"the connection was lost: {why.getErrorMessage()}"
        # First on_lost, so that a caller whose command fails does not use this session again.
        self.on_lost()
        super().connectionLost(why)

    def _translate(self, failure: Failure) -> Any:
        if failure.check(ResponseError):
            raise RedisError(" ".join(str(failure.value).split()))
        if failure.check(LibraryConnectionError):
            raise RedisUnavailable(self.reason)
        if failure.check(InvalidData):
            raise RedisError("an argument of a command cannot be encoded")
        return failure


class SubscriberConnection(CommandConnection, SubscriberProtocol):
    """A connection that is subscribed to channels.

    :param on_message: called with a channel and a message.
    """

    def __init__(self, on_message: Callable[[bytes, bytes], None]) -> None:
        super().__init__()
        self._on_message = on_message

    def replyReceived(self, reply: Any) -> None:
        """Take an answer or a message. One that Redis does not send raises InvalidData."""
        if isinstance(reply, list) and not all(
            isinstance(part, bytes | int | None) for part in reply
        ):
            raise InvalidData("neither a message nor the answer to a command")
        super().replyReceived(reply)

    def messageReceived(self, pattern: bytes | None, channel: bytes, message: bytes) -> None:
        """Pass a message on."""
        if not (isinstance(channel, bytes) and isinstance(message, bytes)):
            raise InvalidData("not a message")
        self._on_message(channel, message)


class _SingleConnection(Factory):
    """Makes one connection, and logs nothing."""

    noisy = False

    def __init__(self, connection: CommandConnection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> CommandConnection:
        return self._connection


async def find_endpoint(reactor: Any, address: RedisAddress) -> IStreamClientEndpoint:
    """Return the endpoint of Redis, or of the server that the Sentinels name as the master."""
    if address.path is not None:
        return UNIXClientEndpoint(reactor, address.path, timeout=_CONNECT_TIMEOUT)
    host, port = address.hosts[0]
    if address.service is not None:
        host, port = await _ask_sentinels(reactor, address)
    endpoint = HostnameEndpoint(reactor, host.encode(), port, timeout=_CONNECT_TIMEOUT)
    if address.tls:
        return wrapClientTLS(optionsForClientTLS(host), endpoint, reactor)
    return endpoint


async def connect(endpoint: IStreamClientEndpoint, connection: CommandConnection) -> None:
    """Connect to an endpoint. Raises RedisUnavailable with the reason if that fails."""
    try:
        await endpoint.connect(_SingleConnection(connection))
    except Exception as error:
        raise RedisUnavailable(" ".join(str(error).split()) or type(error).__name__) from None


async def log_in(
    endpoint: IStreamClientEndpoint, connection: CommandConnection, address: RedisAddress
) -> dict[str, str]:
    """Connect and authenticate. Returns what the server says about itself in ``INFO``."""
    await connect(endpoint, connection)
    try:
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            await connection.run("AUTH", *user, address.password)
        info = await connection.run("INFO")
    except RedisError as error:
        raise _explain(str(error)) from None
    except RedisUnavailable:
        if connection.garbled:
            raise RedisMisconfigured("not a Redis server: unexpected protocol data") from None
        raise
    if not isinstance(info, bytes):
        raise RedisMisconfigured("not a Redis server: unexpected answer to INFO")
    lines = info.decode("latin-1").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def check_server(
    connection: CommandConnection, address: RedisAddress, server: dict[str, str]
) -> None:
    """Check that a server can be used, select the database, and load the scripts."""
    version = server.get("redis_version", "")
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if "run_id" not in server or numbers < _MIN_VERSION:
        raise RedisMisconfigured(f"version 6.2 or newer is required; this is {version or '?'}")
    if server.get("redis_mode") == "cluster":
        raise RedisMisconfigured("Redis Cluster is not supported: use one Redis, or Sentinel")
    if server.get("loading") != "0":
        raise RedisUnavailable("still loading its data")
    if server.get("role") != "master":
        raise RedisUnavailable("it is a read-only replica")
    try:
        await connection.run("SELECT", address.db)
        for script in ALL:
            await connection.run("SCRIPT", "LOAD", script.source)
    except RedisError as error:
        raise _explain(str(error)) from None


def ignore() -> None:
    """Do nothing."""


async def _ask_sentinels(reactor: Any, address: RedisAddress) -> tuple[str, int]:
    details = ""
    for host, port in address.hosts:
        sentinel = CommandConnection()
        endpoint = HostnameEndpoint(reactor, host.encode(), port, timeout=_CONNECT_TIMEOUT / 2)
        try:
            await connect(endpoint, sentinel)
            asking = sentinel.run("SENTINEL", "get-master-addr-by-name", address.service)
            found = await asking.addTimeout(_CONNECT_TIMEOUT / 2, reactor)
        except Exception as error:
            details = f": {error}"
            continue
        finally:
            sentinel.abort()
        if found is not None:
            try:
                name, number = found
                return name.decode(), int(number)
            except (AttributeError, TypeError, ValueError):
                details = f": unexpected answer of the Sentinel at {host}:{port}"
    raise RedisUnavailable(f"no Sentinel knows the master {address.service}{details}")


def _explain(error: str) -> Exception:
    """Return the exception for an error that a server answers while a session is opened."""
    code = error.partition(" ")[0]
    if code in ("LOADING", "MASTERDOWN", "BUSY", "OOM", "READONLY", "MISCONF"):
        return RedisUnavailable(error)
    if code == "WRONGPASS" or "invalid password" in error:
        return RedisMisconfigured("wrong user or password")
    if code == "NOAUTH":
        return RedisMisconfigured("a password is required: use redis://:PASSWORD@…")
    return RedisMisconfigured(error)
