"""Calls of other nodes over Redis.

A call is a message on a channel that every node subscribes to which takes part, and each of them
answers on a channel of the caller. Redis says how many nodes have got a call, so that the caller
knows how many answers to wait for. A node that is without Redis at that time is not among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import RedisError, RedisUnavailable, Unavailable
from pushd.topics.broker import AnswerCall
from pushd.topics.redis.reconnect import Reconnector
from pushd.topics.redis.scripts import RedisNames

if TYPE_CHECKING:
    from pushd.topics.redis.session import RedisSession

_log = Logger(namespace="pushd.topics")

# Seconds in which all nodes must answer, from the moment at which the call is made.
_TIMEOUT = 5.0

# Bytes of an answer, at most. Redis closes the connection of a node that has too much unread.
_MAX_ANSWER = 1 << 20


class _Call:
    """A call that has not been answered by all nodes."""

    def __init__(
        self, message: str, timeout: IDelayedCall, cancelled: Callable[[Deferred[Any]], None]
    ) -> None:
        self.message = message
        self.answered: Deferred[list[Any]] = Deferred(cancelled)
        self.answers: list[Any] = []
        #: False while it waits until this node has subscribed to the answers.
        self.sent = False
        #: How many nodes have got it; None if that is not known yet.
        self.expected: int | None = None
        self.timeout = timeout


class RedisNodeCalls:
    """Calls other nodes through the session of a node's broker.

    :param node: the name of this node, which no other has.
    :param name: the address of Redis for errors, without the password.
    """

    def __init__(
        self,
        reactor: Any,
        reconnector: Reconnector,
        names: RedisNames,
        *,
        node: str,
        name: str,
    ) -> None:
        self._reactor = reactor
        self._reconnector = reconnector
        self._names = names
        self._node = node
        self._name = name
        self._answer: AnswerCall | None = None
        self._calls: dict[int, _Call] = {}
        self._number = 0
        # The session in which other nodes can be called.
        self._ready: RedisSession | None = None

    # What the API calls

    def serve(self, answer: AnswerCall) -> None:
        """Take part from now on."""
        self._answer = answer
        if self._reconnector.session is not None:
            self.connected(self._reconnector.session)

    def call(self, method: str, argument: Any) -> Deferred[list[Any]]:
        """Return what each of the other nodes answers."""
        if self._reconnector.session is None:
            return fail(Unavailable(self._reconnector.fault()))
        self._number = number = self._number + 1
        message = {"node": self._node, "id": number, "method": method, "argument": argument}
        call = self._calls[number] = _Call(
            json.dumps(message),
            self._reactor.callLater(_TIMEOUT, self._expire, number),
            partial(self._cancelled, number),
        )
        if self._ready is not None:
            self._send(self._ready, number, call)
        return call.answered

    # What the broker calls

    def connected(self, session: RedisSession) -> None:
        """Subscribe to calls and answers, if this node takes part."""
        if self._answer is not None:
            channels = (self._names.answer_channel(self._node), self._names.call_channel)
            subscribing = gatherResults(map(session.subscribe, channels), consumeErrors=True)
            subscribing.addCallbacks(lambda _: self._begin(session), _ignore_loss)

    def disconnected(self) -> None:
        """Fail the calls that are under way, as their answers are lost, and those that wait."""
        self._ready = None
        reason = str(self._reconnector.fault())
        for number in tuple(self._calls):
            # One that fails may have made another be cancelled.
            if number in self._calls:
                self._fail(number, reason)

    def receive(self, channel: bytes, message: bytes) -> bool:
        """Take a message of a channel. Returns False if it is that of another one."""
        if self._answer is None:
            return False
        if channel == self._names.call_channel:
            take = self._take_call
        elif channel == self._names.answer_channel(self._node):
            take = self._take_answer
        else:
            return False
        try:
            take(json.loads(message))
        except (ValueError, TypeError, KeyError):
            _log.warn(
                "unexpected message on Redis channel {channel}: another program writes to it",
                event="broker_misused",
                channel=channel.decode(),
            )
        return True

    # Private

    def _begin(self, session: RedisSession) -> None:
        if self._reconnector.session is session:
            self._ready = session
            for number, call in tuple(self._calls.items()):
                # The session may be lost meanwhile, which fails them all.
                if not call.sent and number in self._calls:
                    self._send(session, number, call)

    def _send(self, session: RedisSession, number: int, call: _Call) -> None:
        """Send a call to all nodes that take part, this one among them."""
        call.sent = True
        publishing = session.run("PUBLISH", self._names.call_channel, call.message)
        publishing.addCallbacks(self._published, self._not_published, (number,), {}, (number,))

    def _published(self, count: int, number: int) -> None:
        """Take note of how many nodes have got a call, this one among them."""
        call = self._calls.get(number)
        if call is not None:
            call.expected = count - 1
            self._check(number, call)

    def _not_published(self, failure: Failure, number: int) -> None:
        failure.trap(RedisUnavailable, RedisError)
        if number in self._calls:
            self._fail(number, f"Redis at {self._name}: {failure.getErrorMessage()}")

    def _take_call(self, message: dict[str, Any]) -> None:
        node, id, method = message["node"], message["id"], message["method"]
        argument, session = message["argument"], self._reconnector.session
        if node == self._node or session is None or self._answer is None:
            return
        answer: dict[str, Any]
        try:
            answer = {"id": id, "answer": self._answer(method, argument)}
        except Exception:
            _log.failure(
                "a call of another node failed: {method}", event="node_call_failed", method=method
            )
            answer = {"id": id, "error": "a node failed to answer: see its log"}
        text = json.dumps(answer)
        if len(text) > _MAX_ANSWER:
            text = json.dumps({"id": id, "error": "the answer of a node is too long: ask for less"})
        channel = self._names.answer_channel(str(node))
        session.run("PUBLISH", channel, text).addErrback(_ignore_loss)

    def _take_answer(self, message: dict[str, Any]) -> None:
        number = message["id"]
        call = self._calls.get(number)
        if call is None:
            return
        if "error" in message:
            self._fail(number, str(message["error"]))
            return
        call.answers.append(message["answer"])
        self._check(number, call)

    def _check(self, number: int, call: _Call) -> None:
        if len(call.answers) == call.expected:
            self._drop(number).answered.callback(call.answers)

    def _expire(self, number: int) -> None:
        call = self._calls[number]
        if not call.sent:
            waited = f"Redis at {self._name}: no subscription to answers in {_TIMEOUT:g} seconds"
            self._fail(number, waited)
            return
        nodes = "?" if call.expected is None else call.expected
        line = f"{len(call.answers)} of {nodes} other nodes have answered in {_TIMEOUT:g} seconds"
        self._fail(number, line)

    def _cancelled(self, number: int, answered: object) -> None:
        self._drop(number)

    def _fail(self, number: int, reason: str) -> None:
        self._drop(number).answered.errback(Unavailable(reason))

    def _drop(self, number: int) -> _Call:
        """Forget a call, whose end is known or of no interest."""
        call = self._calls.pop(number)
        if call.timeout.active():
            call.timeout.cancel()
        return call


def _ignore_loss(failure: Failure) -> None:
    """Ignore that a session was lost, or refuses: the caller learns that in time."""
    failure.trap(RedisUnavailable, RedisError)
