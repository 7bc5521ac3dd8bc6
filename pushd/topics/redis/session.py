"""A session: two connections to one Redis server, opened, checked and closed together.

One connection runs commands whose answers may be long. The other is subscribed to channels, and
publishes, unless Redis does not speak RESP3: then it allows few commands there. Answers count
towards the limit on what a subscriber has not read (``client-output-buffer-limit pubsub``), so
that long ones must not come over it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from OpenSSL.SSL import TLS_METHOD, Context
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.connection import (
    CommandConnection,
    SubscriberConnection,
    Writer,
    check_server,
    find_endpoint,
    ignore,
    log_in,
    write_later,
)
from pushd.topics.redis.scripts import PUBLISH, Script

# How long opening a session may take, in seconds.
_OPEN_TIMEOUT = 10.0

# The seconds between two pings, and for how many of these intervals the answers may be overdue.
# Intervals are counted, not seconds: if this process was blocked, the answers have arrived by the
# time it continues, and are read between two intervals.
_PING_INTERVAL = 1.0
_MAX_OVERDUE = 5


class RedisSession:
    """An open session.

    :param server: what the server says about itself in ``INFO``.
    :param trusted: whether the server is known to have kept everything when it was last restarted.
    :param on_lost: called once with the reason if the session ends in another way than ``close``.
    """

    def __init__(
        self,
        clock: Any,
        connections: tuple[CommandConnection, SubscriberConnection],
        server: dict[str, str],
        trusted: bool,
        on_lost: Callable[[str], object],
    ) -> None:
        self._clock = clock
        self._commands, self._subscriber = connections
        # What is published here and delivered here arrives in one piece with the answer.
        self._publisher = self._subscriber if self._subscriber.takes_commands else self._commands
        #: The id of this run of the server.
        self.run_id = server["run_id"]
        self.trusted = trusted
        self._on_lost: Callable[[str], object] | None = on_lost
        # For how many intervals the answers to the pings are overdue; None if none is.
        self._overdue: int | None = None
        self._call = clock.callLater(_PING_INTERVAL, self._ping)
        for connection in connections:
            connection.on_lost = lambda ended=connection: self._end(ended.reason)  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def run_script(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run a script.

        Fails with RedisError, or with RedisUnavailable: then it may have run all the same.
        """
        return self._run(self._commands, script, keys, args)

    def publish(self, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run ``PUBLISH``; see ``run_script``."""
        return self._run(self._publisher, PUBLISH, keys, args)

    def run(self, *args: Any) -> Deferred[Any]:
        """Run a command. Fails with RedisError or RedisUnavailable."""
        return self._commands.run(*args)

    def subscribe(self, channel: bytes) -> Deferred[Any]:
        """Subscribe to a channel. The Deferred fires when Redis has confirmed that."""
        return self._subscriber.run("SUBSCRIBE", channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Unsubscribe from a channel."""
        self._subscriber.run("UNSUBSCRIBE", channel).addErrback(_ignore_failure)

    def close(self) -> None:
        """Close both connections, without calling ``on_lost``."""
        self._on_lost = None
        self._end("")

    def _run(
        self,
        connection: CommandConnection,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any],
    ) -> Deferred[Any]:
        running = connection.run("EVALSHA", script.sha1, len(keys), *keys, *args)
        return running.addErrback(_run_source, connection, script, keys, args)

    def _ping(self) -> None:
        if self._overdue is None:
            self._overdue = 0
            pings = [one.run("PING") for one in (self._commands, self._subscriber)]
            answered = gatherResults(pings, consumeErrors=True)
            answered.addCallbacks(self._answered, _ignore_failure)
        else:
            self._overdue += 1
            if self._overdue >= _MAX_OVERDUE:
                self._end(f"no answer for {_MAX_OVERDUE * _PING_INTERVAL:g} seconds")
                return
        self._call = self._clock.callLater(_PING_INTERVAL, self._ping)

    def _answered(self, _: object) -> None:
        self._overdue = None

    def _end(self, reason: str) -> None:
        if self._call.active():
            self._call.cancel()
        on_lost, self._on_lost = self._on_lost, None
        connections = (self._commands, self._subscriber)
        for connection in connections:
            connection.on_lost = ignore
        if on_lost is not None:
            on_lost(reason)
        for connection in connections:
            connection.transport.abortConnection()


def open_session(
    reactor: Any,
    address: RedisAddress,
    on_message: Callable[[bytes, bytes], None],
    on_lost: Callable[[str], object],
    write: Writer = write_later,
) -> Deferred[RedisSession]:
    """Open a session. Fails with RedisUnavailable or RedisMisconfigured.

    :param on_message: called with a channel and a message that was published to it.
    :param on_lost: called with the reason when the session is lost.
    :param write: see ``CommandConnection``.
    """
    opening = Deferred.fromCoroutine(_open(reactor, address, on_message, on_lost, write))
    return opening.addTimeout(_OPEN_TIMEOUT, reactor, _timed_out)


async def _open(
    reactor: Any,
    address: RedisAddress,
    on_message: Callable[[bytes, bytes], None],
    on_lost: Callable[[str], object],
    write: Writer,
) -> RedisSession:
    endpoint = await find_endpoint(reactor, address)
    commands, subscriber = CommandConnection(write), SubscriberConnection(on_message, write)
    try:
        server = await log_in(endpoint, commands, address)
        await check_server(commands, address, server)
        if (await log_in(endpoint, subscriber, address))["run_id"] != server["run_id"]:
            raise RedisUnavailable(
                "the two connections reached different servers (failover in progress)"
            )
        await subscriber.begin_commands(address.db)
    except BaseException:
        commands.abort()
        subscriber.abort()
        raise
    # A replica that took over, and a server without an append-only file, may lack the last writes.
    trusted = (
        address.service is None
        and server.get("aof_enabled") == "1"
        and server.get("second_repl_offset") == "-1"
    )
    return RedisSession(reactor, (commands, subscriber), server, trusted, on_lost)


def _run_source(
    failure: Failure,
    connection: CommandConnection,
    script: Script,
    keys: Sequence[str],
    args: Sequence[Any],
) -> Any:
    # The script was loaded when the session was opened; SCRIPT FLUSH has removed it since.
    if failure.check(RedisError) and str(failure.value).startswith("NOSCRIPT"):
        return connection.run("EVAL", script.source, len(keys), *keys, *args)
    return failure


def _ignore_failure(_: Failure) -> None:
    """Ignore a failure: ``on_lost`` reports the end of a session."""


def _timed_out(_: object, timeout: float) -> NoReturn:
    raise RedisUnavailable(f"no answer for {timeout:g} seconds")


# How long ``probe`` waits for an event before it looks at the clock, in seconds.
_STEP = 0.1


def probe(address: RedisAddress) -> str | None:
    """Return why this Redis cannot be used until something is changed; None if it can.

    It can if it is only unreachable: the daemon keeps trying. This takes at most the ten seconds
    that opening a session may take, on a reactor of its own, as the daemon's does not run yet.
    """
    if address.tls and not _has_callbacks():
        return (
            "TLS to Redis needs memory that is writable and executable, which this process may not "
            "have: MemoryDenyWriteExecute=no in the unit of systemd allows it"
        )
    reactor: Any = SelectReactor()
    reactor.startRunning(installSignalHandlers=False)
    opening = open_session(reactor, address, lambda *_: None, lambda _: None)
    probing = opening.addCallbacks(RedisSession.close, _explain)
    while not probing.called:
        reactor.iterate(_STEP)
    reactor.stop()
    # The first iteration handles the stop, the second one the shutdown.
    reactor.iterate(0)
    reactor.iterate(0)
    reason: Any = probing.result
    return None if reason is None else str(reason)


def _has_callbacks() -> bool:
    """Return whether OpenSSL can call Python, as it does when it verifies Redis's certificate.

    pyOpenSSL's callbacks need such memory.
    """
    try:
        Context(TLS_METHOD).set_info_callback(lambda *_: None)
    except MemoryError:
        return False
    return True


def _explain(failure: Failure) -> str | None:
    return failure.getErrorMessage() if failure.check(RedisMisconfigured) else None
