"""The scripts of revocations, as a fake Redis runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from pushd.errors import RedisError
from pushd.topics.redis.revocations import READ_REVOCATIONS, REVOKE
from pushd.topics.redis.scripts import Script

REVOCATION_SCRIPTS = (READ_REVOCATIONS, REVOKE)


class FakeRevocationData:
    """The stream of revocations. Each session reads it at its start, which is never late.

    :param publish: sends a message on a channel.
    """

    def __init__(self, publish: Callable[[bytes, bytes], object]) -> None:
        self._publish = publish
        self.entries: list[tuple[bytes, list[bytes]]] = []
        #: The error of each script, if they are to fail.
        self.refusal: str | None = None
        #: Where answers to reads wait while they are to come late; None if they are not.
        self.late: list[Callable[[], None]] | None = None

    def run(self, script: Script, args: Sequence[Any]) -> Deferred[Any]:
        """Run a script."""
        if self.refusal is not None:
            return fail(RedisError(self.refusal))
        if script is REVOKE:
            return succeed(self.add(args[0], args[1].encode()))
        start = 0 if args[0] == "-" else int(args[0].partition("-")[2])
        entries = self.entries[start:]
        if self.late is None:
            return succeed(entries)
        answer: Deferred[Any] = Deferred()
        self.late.append(lambda: answer.callback(entries))
        return answer

    def add(self, channel: bytes, message: bytes) -> bytes:
        """Add a revocation, and publish it; return its id."""
        id = b"7-%d" % (len(self.entries) + 1)
        self.entries.append((id, [b"m", message]))
        self._publish(channel, b"%b %b" % (id, message))
        return id


class FakeExchange:
    """Takes down what is told to other nodes."""

    def __init__(self) -> None:
        self.told: list[tuple[str | None, str | None]] = []
        self.error: Exception | None = None

    def start(self, revoke: Callable[[str | None, str | None], object]) -> None:
        """Start."""
        self.revoke = revoke

    def tell(self, topic: str | None, subject: str | None) -> Deferred[None]:
        """Take down a revocation."""
        self.told.append((topic, subject))
        return succeed(None) if self.error is None else fail(self.error)
