"""One connection to a Redis, and what can go wrong with it, in words of ours.

Its library is imported only where Redis is asked for: it imports the global reactor, though nothing
here uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
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

from pushd.redis_scripts import Away, Refused


class Commands(HiredisProtocol):
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
            return fail(Away(self.reason))
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
            raise Refused(" ".join(str(failure.value).split()))
        if failure.check(LibraryConnectionError):
            raise Away(self.reason)
        return failure


class Listener(Commands, SubscriberProtocol):
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

    def __init__(self, connection: Commands) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> Commands:
        return self._connection


async def connect(endpoint: IStreamClientEndpoint, connection: Commands) -> None:
    """Connect to an endpoint; raises Away, which says why not."""
    try:
        await endpoint.connect(_Once(connection))
    except Exception as error:
        raise Away(" ".join(str(error).split()) or type(error).__name__) from None


def ignore() -> None:
    """Do nothing, as nobody is to be told."""
