"""Two connections to one Redis server, opened, checked and ended together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisMisconfigured, RedisUnavailable
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.connection import (
    CommandConnection,
    SubscriberConnection,
    find,
    greet,
    ignore,
    prepare,
)
from pushd.topics.redis.scripts import Script

# How long a server may take to greet, in seconds; how often it is pinged; and for how many beats it
# may owe an answer. Not seconds: when this process has been held up, the answer is here by then,
# and is read between two beats.
_GREETING = 10.0
_BEAT = 1.0
_PATIENCE = 5


class RedisSession:
    """An open session.

    :param lost: called once, with the reason, when it has ended by itself.
    """

    def __init__(
        self,
        clock: Any,
        connections: tuple[CommandConnection, SubscriberConnection],
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
        # For how many beats a ping has had no answer; None where none is on its way.
        self._silent: int | None = None
        self._call = clock.callLater(_BEAT, self._beat)
        for connection in connections:
            connection.lost = lambda ended=connection: self._end(ended.reason)  # type: ignore[misc]

    def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run a script. Fails with Refused, or with Away: then it may have run all the same."""
        rest = (len(keys), *keys, *args)
        called = self._commands.ask("EVALSHA", script.name, *rest)
        return called.addErrback(self._call_whole, script, rest)

    def command(self, *args: Any) -> Deferred[Any]:
        """Run a command."""
        return self._commands.ask(*args)

    def subscribe(self, channel: bytes) -> Deferred[Any]:
        """Have what is published to a channel; fires when all from then on will come."""
        return self._listener.ask("SUBSCRIBE", channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Have no more of it."""
        self._listener.ask("UNSUBSCRIBE", channel).addErrback(_forget)

    def end(self) -> None:
        """End it, without a word to ``lost``."""
        self._lost = None
        self._end("")

    def _call_whole(self, failure: Failure, script: Script, rest: tuple[Any, ...]) -> Any:
        # It was there when the session began; somebody has said SCRIPT FLUSH.
        if failure.check(RedisError) and str(failure.value).startswith("NOSCRIPT"):
            return self._commands.ask("EVAL", script.source, *rest)
        return failure

    def _beat(self) -> None:
        if self._silent is None:
            self._silent = 0
            pings = [one.ask("PING") for one in (self._commands, self._listener)]
            answered = gatherResults(pings, consumeErrors=True)
            answered.addCallbacks(self._answered, _forget)
        else:
            self._silent += 1
            if self._silent >= _PATIENCE:
                self._end(f"it has not answered for {_PATIENCE * _BEAT:g} seconds")
                return
        self._call = self._clock.callLater(_BEAT, self._beat)

    def _answered(self, _: object) -> None:
        self._silent = None

    def _end(self, reason: str) -> None:
        if self._call.active():
            self._call.cancel()
        lost, self._lost = self._lost, None
        connections = (self._commands, self._listener)
        for connection in connections:
            connection.lost = ignore
        if lost is not None:
            lost(reason)
        for connection in connections:
            connection.transport.abortConnection()


def open_session(
    reactor: Any,
    address: RedisAddress,
    notice: Callable[[bytes, bytes], None],
    lost: Callable[[str], object],
) -> Deferred[RedisSession]:
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
) -> RedisSession:
    endpoint = await find(reactor, address)
    commands, listener = CommandConnection(), SubscriberConnection(notice)
    try:
        server = await greet(endpoint, commands, address)
        await prepare(commands, address, server)
        if (await greet(endpoint, listener, address))["run_id"] != server["run_id"]:
            raise RedisUnavailable("another server has just taken its place")
    except BaseException:
        commands.abandon()
        listener.abandon()
        raise
    # A replica that took over, and a server that keeps nothing on disk, may have lost the end.
    trusted = (
        address.service is None
        and server.get("aof_enabled") == "1"
        and server.get("second_repl_offset") == "-1"
    )
    return RedisSession(reactor, (commands, listener), server, trusted, lost)


def _forget(_: Failure) -> None:
    """Let a failure be: that the session has ended is told otherwise."""


def _timed_out(_: object, timeout: float) -> NoReturn:
    raise RedisUnavailable(f"it has not answered for {timeout:g} seconds")


# How long to wait for something to happen before the clock is looked at, in seconds.
_STEP = 0.1


def probe(address: RedisAddress) -> str | None:
    """Why this Redis can't be used until somebody changes something; None if it can.

    One that just can't be reached can: the daemon goes on asking. The look takes at most the ten
    seconds that a session has to open, on a reactor of its own, as the daemon's is not running yet.
    """
    reactor: Any = SelectReactor()
    reactor.startRunning(installSignalHandlers=False)
    opening = open_session(reactor, address, lambda *_: None, lambda _: None)
    looking = opening.addCallbacks(RedisSession.end, _explain)
    while not looking.called:
        reactor.iterate(_STEP)
    reactor.stop()
    # Once to be told of the stop, once to carry it out.
    reactor.iterate(0)
    reactor.iterate(0)
    reason: Any = looking.result
    return None if reason is None else str(reason)


def _explain(failure: Failure) -> str | None:
    return failure.getErrorMessage() if failure.check(RedisMisconfigured) else None
