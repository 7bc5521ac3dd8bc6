"""Two connections to one Redis, which are opened, checked and ended together.

Commands go over one, what is published comes over the other. Were one of them lost alone, or were
they to end at two servers while one takes over from the other, nobody could say what is missing;
so the loss of either is the loss of the session, and the next session starts from what it reads.

This module and its library are imported only where Redis is asked for: the library imports the
global reactor, though nothing here uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail, gatherResults
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

from pushd.redis_scripts import ALL, Away, Refused, Script, Unsuitable
from pushd.redis_url import RedisAddress

# The first version whose streams can be trimmed by age.
_LEAST_VERSION = (6, 2)

# How long a server may take to accept a connection, to greet, and to answer a ping, in seconds;
# and how often it is pinged.
_CONNECT = 5.0
_GREETING = 10.0
_PATIENCE = 5.0
_BEAT = 1.0


class _Commands(HiredisProtocol):
    """A connection for commands. Everything is bytes, nothing is converted."""

    def __init__(self) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.garbled = False
        self.reason = ""
        self.lost: Callable[[], None] = _ignore

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


class _Listener(_Commands, SubscriberProtocol):
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

    def __init__(self, connection: _Commands) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> _Commands:
        return self._connection


def _ignore() -> None:
    """Do nothing."""


class Session:
    """An open session.

    :param lost: called once, with the reason, when it has ended by itself.
    """

    def __init__(
        self,
        clock: Any,
        connections: tuple[_Commands, _Listener],
        server: dict[str, str],
        trusted: bool,
        lost: Callable[[str], object],
    ) -> None:
        self._clock = clock
        self._commands, self._listener = connections
        #: Which run of which server this is.
        self.run = server["run_id"]
        #: Whether the server is known to remember all that it knew before it was started.
        self.trusted = trusted
        self._lost: Callable[[str], object] | None = lost
        self._asked: float | None = None
        self._call = clock.callLater(_BEAT, self._beat)
        for connection in connections:
            connection.lost = lambda ended=connection: self._end(ended.reason)  # type: ignore[misc]

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run a script. Fails with Refused, or with Away: then it may have run all the same."""
        rest = (len(keys), *keys, *args)
        called = _execute(self._commands, "EVALSHA", script.name, *rest)
        return called.addErrback(self._call_whole, script, rest)

    def command(self, *args: Any) -> Deferred[Any]:
        """Run a command."""
        return _execute(self._commands, *args)

    def subscribe(self, channel: bytes) -> Deferred[Any]:
        """Have what is published to a channel; fires when all from then on will come."""
        return _execute(self._listener, "SUBSCRIBE", channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Have no more of it."""
        _execute(self._listener, "UNSUBSCRIBE", channel).addErrback(_forget)

    def end(self) -> None:
        """End it, without a word to ``lost``."""
        self._lost = None
        self._end("")

    def _call_whole(self, failure: Failure, script: Script, rest: tuple[Any, ...]) -> Any:
        # It was there when the session began; somebody has said SCRIPT FLUSH.
        if failure.check(Refused) and str(failure.value).startswith("NOSCRIPT"):
            return _execute(self._commands, "EVAL", script.source, *rest)
        return failure

    def _beat(self) -> None:
        now = self._clock.seconds()
        if self._asked is None:
            self._asked = now
            pings = [_execute(one, "PING") for one in (self._commands, self._listener)]
            answered = gatherResults(pings, consumeErrors=True)
            answered.addCallbacks(self._answered, _forget)
        elif now - self._asked >= _PATIENCE:
            self._end(f"it has not answered for {_PATIENCE:g} seconds")
            return
        self._call = self._clock.callLater(_BEAT, self._beat)

    def _answered(self, _: object) -> None:
        self._asked = None

    def _end(self, reason: str) -> None:
        if self._call.active():
            self._call.cancel()
        lost, self._lost = self._lost, None
        connections = (self._commands, self._listener)
        for connection in connections:
            connection.lost = _ignore
        if lost is not None:
            lost(reason)
        for connection in connections:
            connection.transport.abortConnection()


def open_session(
    reactor: Any,
    address: RedisAddress,
    notice: Callable[[bytes, bytes], None],
    lost: Callable[[str], object],
) -> Deferred[Session]:
    """Open a session. Fails with Away, or with Unsuitable.

    :param notice: called with a channel, and what was published to it.
    :param lost: called with the reason when the session has ended.
    """
    opening = Deferred.fromCoroutine(_open(reactor, address, notice, lost))
    return opening.addTimeout(_GREETING, reactor, _timed_out)


async def _open(
    reactor: Any,
    address: RedisAddress,
    notice: Callable[[bytes, bytes], None],
    lost: Callable[[str], object],
) -> Session:
    endpoint = await _find(reactor, address)
    commands, listener = _Commands(), _Listener(notice)
    try:
        server = await _greet(endpoint, commands, address)
        await _prepare(commands, address, server)
        if (await _greet(endpoint, listener, address))["run_id"] != server["run_id"]:
            raise Away("another server has just taken its place")
    except BaseException:
        _abandon(commands, listener)
        raise
    # A replica that took over, and a server that keeps nothing on disk, may have lost the end.
    trusted = (
        address.service is None
        and server.get("aof_enabled") == "1"
        and server.get("second_repl_offset") == "-1"
    )
    return Session(reactor, (commands, listener), server, trusted, lost)


async def _find(reactor: Any, address: RedisAddress) -> IStreamClientEndpoint:
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


async def _ask_sentinels(reactor: Any, address: RedisAddress) -> tuple[str, int]:
    said = ""
    for host, port in address.hosts:
        sentinel = _Commands()
        endpoint = HostnameEndpoint(reactor, host.encode(), port, timeout=_CONNECT / 2)
        try:
            await _connect(endpoint, sentinel)
            asking = _execute(sentinel, "SENTINEL", "get-master-addr-by-name", address.service)
            found = await asking.addTimeout(_CONNECT / 2, reactor)
        except Exception as error:
            said = f": {error}"
            continue
        finally:
            _abandon(sentinel)
        if found is not None:
            return found[0].decode(), int(found[1])
    raise Away(f"no Sentinel knows the master {address.service}{said}")


async def _greet(
    endpoint: IStreamClientEndpoint, connection: _Commands, address: RedisAddress
) -> dict[str, str]:
    """Connect, and find out who is there."""
    await _connect(endpoint, connection)
    try:
        if address.password is not None:
            user = () if address.user is None else (address.user,)
            await _execute(connection, "AUTH", *user, address.password)
        said: bytes = await _execute(connection, "INFO")
    except Refused as error:
        raise _explain(str(error)) from None
    except Away:
        if connection.garbled:
            raise Unsuitable("this is no Redis: it speaks another language") from None
        raise
    lines = said.decode("latin-1").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


async def _connect(endpoint: IStreamClientEndpoint, connection: _Commands) -> None:
    try:
        await endpoint.connect(_Once(connection))
    except Exception as error:
        raise Away(" ".join(str(error).split()) or type(error).__name__) from None


def _abandon(*connections: _Commands) -> None:
    for connection in connections:
        if connection.transport is not None:
            connection.transport.abortConnection()


async def _prepare(connection: _Commands, address: RedisAddress, server: dict[str, str]) -> None:
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
        await _execute(connection, "SELECT", address.db)
        for script in ALL:
            await _execute(connection, "SCRIPT", "LOAD", script.source)
    except Refused as error:
        raise _explain(str(error)) from None


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


def _execute(connection: _Commands, *args: Any) -> Deferred[Any]:
    """Run a command, and say with exceptions of ours what went wrong."""
    try:
        executed: Deferred[Any] = connection.execute_command(*args)
    except LibraryConnectionError:
        return fail(Away(connection.reason))
    return executed.addErrback(_translate, connection)


def _translate(failure: Failure, connection: _Commands) -> Any:
    if failure.check(ResponseError):
        raise Refused(" ".join(str(failure.value).split()))
    if failure.check(LibraryConnectionError):
        raise Away(connection.reason)
    return failure


def _forget(_: Failure) -> None:
    """Let a failure be: that the session has ended is told otherwise."""


def _timed_out(_: object, timeout: float) -> NoReturn:
    raise Away(f"it has not answered for {timeout:g} seconds")
