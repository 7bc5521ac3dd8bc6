"""Messages from one node to another, over a channel of Redis that each node has for itself.

A node that is not subscribed to its channel, because it is gone or has lost its connection, gets
nothing, and the sender learns that from Redis.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import RedisNames

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

# What may be the name of a node.
_NODE = re.compile(r"[0-9a-zA-Z]{1,64}")


class RedisRelay:
    """Passes messages to other nodes, through the session of the node's broker.

    :param node: the name of this node, which no other has.
    :param name: the address of Redis for the log, without the password.
    """

    def __init__(
        self, reconnector: Reconnector, names: RedisNames, *, node: str, name: str
    ) -> None:
        self._reconnector = reconnector
        self._names = names
        #: The name of this node.
        self.node = node
        self._name = name
        self._channel = names.relay_channel(node)
        self._receive: Callable[[bytes], object] | None = None

    def start(self, receive: Callable[[bytes], object]) -> None:
        """Call a function with each message for this node.

        To be called before the broker starts; without that, there are no messages.
        """
        self._receive = receive

    def send(self, node: str, message: bytes) -> Deferred[bool]:
        """Pass a message to a node; the Deferred tells whether there is such a node.

        Fails with ``Unavailable``.
        """
        if not _NODE.fullmatch(node):
            return succeed(False)
        session = self._reconnector.session
        if session is None:
            return fail(Unavailable(self._reconnector.fault()))

        def failed(failure: Failure) -> bool:
            failure.trap(RedisUnavailable, RedisError)
            self._reconnector.refused(session, failure.value)
            raise Unavailable(f"Redis at {self._name}: {failure.getErrorMessage()}")

        sending = session.run("PUBLISH", self._names.relay_channel(node), message)
        return sending.addCallbacks(lambda receivers: receivers > 0, failed)

    # What the broker calls

    def connected(self, session: RedisSession) -> None:
        """Begin a new session."""
        if self._receive is not None:
            subscribing = session.subscribe(self._channel)
            subscribing.addErrback(lambda failure: failure.trap(RedisUnavailable))
            subscribing.addErrback(self._reconnector.log_failure)

    def receive(self, channel: bytes, message: bytes) -> bool:
        """Take a message of a channel. Returns False if it is that of another one."""
        if channel != self._channel or self._receive is None:
            return False
        self._receive(message)
        return True
