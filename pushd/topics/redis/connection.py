"""A connection to a Redis server: found, authenticated and checked, with errors of our own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hiredis import ProtocolError, Reader, pack_command
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.scripts import ALL

# The type stub of hiredis allows only commands of one word.
_pack: Any = pack_command

# Writes some data to a transport.
Writer = Callable[[Any, bytes], object]

# The first version whose streams can be trimmed by id.
_MIN_VERSION = (6, 2)

# How long a server may take to accept a connection, in seconds.
_CONNECT_TIMEOUT = 5.0


def write_later(transport: Any, data: bytes) -> None:
    """Write to a transport, together with what else is written in this reactor iteration."""
    transport.write(data)


class CommandConnection(Protocol):
    """A connection that runs commands. Strings in answers are bytes; an error is a RedisError.

    :param write: writes to a transport what nothing else will follow in this reactor iteration.
    """

    # Its abortConnection is part of no interface that Protocol declares.
    transport: Any

    def __init__(self, write: Writer = write_later) -> None:
        #: True once the server has sent something that is not the protocol of Redis.
        self.garbled = False
        #: Why the connection ended.
        self.reason = ""
        #: Called when the connection has ended.
        self.on_lost: Callable[[], None] = ignore
        self._write = write
        self._open = True
        self._reader = Reader(protocolError=ProtocolError, replyError=_make_error)
        # The commands that have no answer yet, in the order in which they were sent.
        self._running: deque[Deferred[Any]] = deque()

    def run(self, *args: Any) -> Deferred[Any]:
        """Run a command; nothing is raised. Fails with RedisError or RedisUnavailable."""
        if not self._open:
            return fail(RedisUnavailable(self.reason))
        try:
            command = _pack(args)
        except (TypeError, UnicodeError):
            return fail(RedisError("an argument of a command cannot be encoded"))
        # Behind a command without an answer, more may come: they leave together.
        (write_later if self._running else self._write)(self.transport, command)
        running: Deferred[Any] = Deferred()
        self._running.append(running)
        return running

    def abort(self) -> None:
        """Close the connection, if it is open, without waiting."""
        if self.transport is not None:
            self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Parse answers. Data that is not the protocol of Redis ends the connection."""
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                self.received(answer)
        except ProtocolError:
            self.garbled = True
            self.transport.abortConnection()

    def received(self, answer: Any) -> None:
        """Take an answer. One to no command raises ProtocolError."""
        if not self._running:
            raise ProtocolError("an answer to no command")
        running = self._running.popleft()
        if isinstance(answer, RedisError):
            running.errback(answer)
        else:
            running.callback(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Record the reason, call ``on_lost``, and make pending commands fail."""
        self._open = False
        self.reason = f"the connection was lost: {reason.getErrorMessage()}"
        # First on_lost, so that a caller whose command fails does not use this session again.
        self.on_lost()
        while self._running:
            self._running.popleft().errback(RedisUnavailable(self.reason))


class SubscriberConnection(CommandConnection):
    """A connection that is subscribed to channels.

    :param on_message: called with a channel and a message.
    """

    def __init__(
        self, on_message: Callable[[bytes, bytes], None], write: Writer = write_later
    ) -> None:
        super().__init__(write)
        self._on_message = on_message
        #: True if it runs any command. If not, then only those for subscribers.
        self.takes_commands = False

    async def begin_commands(self, db: int) -> None:
        """Let it run any command on a database, if Redis allows that.

        It does in RESP3, which our scripts and subscribers read as they read RESP2. Users whose ACL
        lacks HELLO, and proxies, may not speak it.
        """
        with suppress(RedisError):
            await self.run("HELLO", 3)
            await self.run("SELECT", db)
            self.takes_commands = True

    def received(self, answer: Any) -> None:
        """Take an answer or a message. One that Redis does not send raises ProtocolError."""
        # No answer begins so: ids contain a colon.
        if isinstance(answer, list) and len(answer) == 3 and answer[0] == b"message":
            _, channel, message = answer
            if not (isinstance(channel, bytes) and isinstance(message, bytes)):
                raise ProtocolError("not a message")
            self._on_message(channel, message)
        else:
            super().received(answer)


def _make_error(text: str) -> RedisError:
    """Return the exception for an error that a server answers, with its text in one line."""
    return RedisError(" ".join(text.split()))


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
