"""Commands of clients whose stream goes one way: each request brings some, for a session.

A session is a connection at one node. Requests may come to any node, which passes them on, and
waits until the other node has said whether it knows the session. So what a client is answered, what
the log says, and what counts as a failure do not depend on the node that a request came to. That is
more than the protocol demands: Centrifugo answers 204 for a session that a node does not know, and
404 only if there is no such node. Its SDKs take both, and connect again after a 404.

Nodes exchange two messages: ``command NODE NUMBER SESSION COMMANDS``, and back ``answer NUMBER 1``,
or 0 for a session that the node does not know.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from pushd.api.centrifuge.codec import parse_json
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.http_transports import NO_PROTOBUF, PageResource, is_protobuf
from pushd.api.centrifuge.schema import read_message
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.http.response import Response, json_refusal, write_response
from pushd.schedule.timeouts import TimeoutQueue
from pushd.topics.broker import NodeRelay

# Bytes of a request beside the commands.
_SPARE = 4096

# What may be the name of a session.
_SESSION = re.compile("[0-9a-f]{1,64}")

# Seconds in which another node should say whether it knows a session. A request is held for as
# long, and a client without a session is slowed after that: so the work that it causes is bounded.
_ANSWER_TIMEOUT = 5.0


def max_emulation_body(max_message: int) -> int:
    """Return the limit on the body of a request, in bytes.

    The longest message fits, with escapes: the commands are JSON in a string of JSON.
    """
    return 3 * max_message + _SPARE


class Emulation:
    """Passes commands to the connection that they are for, at this node or another.

    :param relay: passes them to other nodes; None for a single process.
    """

    def __init__(self, dependencies: CentrifugeDependencies, relay: NodeRelay | None) -> None:
        self._dependencies = dependencies
        self._relay = relay
        self._numbers = count(1)
        # The requests of which another node has to say whether it knows their sessions.
        self._asked: dict[bytes, Deferred[bool]] = {}
        self._timeouts: TimeoutQueue[bytes] = TimeoutQueue(
            dependencies.clock, timeout=_ANSWER_TIMEOUT, expired=self._expired
        )
        if relay is not None:
            relay.start(self._receive)

    def send(self, node: str, session: str, commands: bytes) -> Deferred[bool]:
        """Pass commands on; the Deferred tells whether there is a session to take them.

        What another node does not answer for in time is taken: the node is there, and busy. Fails
        with ``Unavailable``.
        """
        if not _SESSION.fullmatch(session):
            return succeed(False)
        if node == self._dependencies.node:
            return succeed(self._pass_on(session, commands))
        relay = self._relay
        if relay is None:
            return succeed(False)
        number = b"%d" % next(self._numbers)
        asked = self._asked[number] = Deferred(lambda _: self._forget(number))
        self._timeouts.start(number)
        message = b"command %b %b %b %b" % (relay.node.encode(), number, session.encode(), commands)
        passing = relay.send(node, message)
        passing.addCallbacks(self._passed, self._not_passed, (number,), {}, (number,))
        return asked

    # What was sent

    def _passed(self, is_there: bool, number: bytes) -> None:
        if not is_there:
            self._settle(number, False)

    def _not_passed(self, failure: Failure, number: bytes) -> None:
        self._settle(number, failure)

    def _expired(self, number: bytes) -> None:
        self._settle(number, True)

    def _settle(self, number: bytes, result: bool | Failure) -> None:
        """Answer a request, unless its client has left, or it is answered."""
        asked = self._asked.get(number)
        if asked is not None:
            self._forget(number)
            asked.callback(result)

    def _forget(self, number: bytes) -> None:
        del self._asked[number]
        self._timeouts.stop(number)

    # What other nodes send

    def _receive(self, message: bytes) -> None:
        """Take commands that came to another node, or its answer for those that came here."""
        kind, _, rest = message.partition(b" ")
        parts = rest.split(b" ", 3)
        if kind == b"command" and len(parts) == 4:
            node, number, session, commands = parts
            known = self._pass_on(session.decode(errors="replace"), commands)
            assert self._relay is not None
            answer = b"answer %b %d" % (number, known)
            answering = self._relay.send(node.decode(errors="replace"), answer)
            # Without Redis the other node learns nothing, and takes it for taken.
            answering.addErrback(lambda failure: failure.trap(Unavailable))
        elif kind == b"answer" and len(parts) == 2:
            self._settle(parts[0], parts[1] == b"1")

    def _pass_on(self, session: str, commands: bytes) -> bool:
        connection = self._dependencies.sessions.get(session)
        if connection is None:
            return False
        connection.receive_apart(commands)
        return True


class EmulationResource(PageResource):
    """The path to which clients send commands.

    It serves open streams for as long as they last, also while the daemon is stopping.
    """

    def __init__(self, dependencies: CentrifugeDependencies, emulation: Emulation) -> None:
        super().__init__(dependencies, "POST")
        self._emulation = emulation

    def answer(self, request: Any) -> None:
        """Pass commands on. What they are answered with comes in the stream."""
        given = _read(request)
        commands = given["data"]
        limit = self._dependencies.state.limits.max_message
        if len(commands) > limit:
            reason = f"commands must be at most {limit} bytes (--max-message); got {len(commands)}"
            raise BadRequest(reason, "data", 413)
        sent = self._emulation.send(given.get("node", ""), given.get("session", ""), commands)
        if not sent.called:
            request.notifyFinish().addErrback(lambda _: sent.cancel())
        sent.addCallbacks(_answer_sent, _answer_failed, (request,), {}, (request,), {})


def _answer_sent(is_sent: bool, request: Any) -> None:
    if is_sent:
        # As a message over a WebSocket, it is counted in the line of the stream's end.
        request.has_access_line = False
        write_response(request, Response(204))
        return
    reason = request.why_refused = "the session is over, or never was: connect again"
    write_response(request, json_refusal(404, reason, "session"))


def _answer_failed(failure: Failure, request: Any) -> None:
    if request._disconnected:
        # Nobody knows yet whether there is such a session. Those who never wait for the answer must
        # not send commands without limit.
        request.site.policy.throttle.count(request.peer)
        return
    if not isinstance(failure.value, Unavailable):
        request.processingFailed(failure)
        return
    headers = {"Retry-After": f"{failure.value.retry_after}"}
    reason = f"the node of the session cannot be reached: {failure.value}"
    request.why_refused = reason
    write_response(request, json_refusal(503, reason, "broker", headers))


def _read(request: Any) -> dict[str, Any]:
    """Return the session, its node and the commands in the body of a request. Raises BadRequest."""
    body = request.content.read()
    try:
        if is_protobuf(request):
            return {"data": b"", **_decode(body)}
        given = read_message("EmulationRequest", parse_json(body))
        commands = given.get("data")
        if not isinstance(commands, str):
            raise ValueError("data must be a string with commands")
        return {**given, "data": commands.encode()}
    except ImportError:
        raise BadRequest(NO_PROTOBUF, "Content-Type") from None
    except ValueError as error:
        raise BadRequest(f"not a request with commands: {error}", "body") from None


def _decode(body: bytes) -> dict[str, Any]:
    # It is an extra.
    from pushd.api.centrifuge.protobuf import decode_emulation

    return decode_emulation(body)
