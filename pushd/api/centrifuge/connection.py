"""One Centrifuge client: its commands, and what they are answered with."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from enum import Enum
from math import inf
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

import pushd
from pushd.access.connections import Closable
from pushd.access.limits import TokenBucket
from pushd.access.tokens import LEEWAY, Identity
from pushd.api.centrifuge.channels import Channels
from pushd.api.centrifuge.codec import Codec
from pushd.api.centrifuge.codes import (
    NO_PONG,
    STALE,
    TOO_MANY_REQUESTS,
    TRANSLATED,
    ErrorCode,
    bad_request,
    closing_of,
    invalid_token,
    refusal_of,
)
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.history import read_page
from pushd.api.centrifuge.link import Link
from pushd.api.centrifuge.presence import clients_of, stats_of
from pushd.api.centrifuge.tokens import (
    channels_of,
    lifetime,
    read_connection_token,
    subject_of,
)
from pushd.api.keep_alives import KEEP_ALIVE_INTERVAL
from pushd.api.topic_access import Caller, with_identity
from pushd.errors import BadRequest, BadToken, CommandRefused, Denied, TokenExpired, Unavailable
from pushd.topics.broker import Draft
from pushd.topics.publication import check_metadata
from pushd.views.request import Request

_log = Logger(namespace="pushd.api")

# Rate and burst of fresh tokens: checking one takes longer than reading a command.
_TOKEN_RATE = 1.0
_TOKEN_BURST = 10

# How many commands may wait for something, beside the subscriptions of all channels.
_MAX_WAITING = 64

# How many times as many commands as --max-rate may come at once.
_BURST = 10


# The number of the command of a client that has only one.
_ONLY = 1


class _State(Enum):
    NEW = "the client has yet to connect"
    CONNECTING = "its connect command is being answered"
    CONNECTED = "it may send all other commands"


class Connection:
    """One client.

    :param caller: the client as its request identifies it.
    :param asking: the request with which it calls procedures; None if there are none.
    :param has_session: whether its commands come by requests of their own.
    :param is_unidirectional: whether its only command is ``connect``, and gets no reply.
    """

    __slots__ = (
        "_asking",
        "_channels",
        "_codec",
        "_commands",
        "_dependencies",
        "_is_heard",
        "_is_unidirectional",
        "_link",
        "_pings",
        "_session",
        "_state",
        "_tokens",
        "_waiting",
        "name",
    )

    def __init__(
        self,
        dependencies: CentrifugeDependencies,
        link: Link,
        codec: Codec,
        caller: Caller,
        asking: Request | None,
        *,
        has_session: bool = False,
        is_unidirectional: bool = False,
    ) -> None:
        self._dependencies = dependencies
        self._link = link
        self._codec = codec
        #: The name of the connection, as its client and all who see its presence know it.
        self.name = dependencies.make_name()
        # What a request must name to send commands; empty if none can.
        self._session = dependencies.make_name() if has_session else ""
        self._is_unidirectional = is_unidirectional
        self._state = _State.NEW
        self._channels = Channels(dependencies, link, codec, self.name, self._send)
        self._channels.caller = caller
        self._asking = asking
        # Commands that wait for something.
        self._waiting: dict[Deferred[None], None] = {}
        # Whether the client has sent anything since the last ping.
        self._is_heard = True
        self._pings = dependencies.keep_alives.every(KEEP_ALIVE_INTERVAL)
        # Made when they are first needed: most clients send few commands, and one token.
        self._commands: TokenBucket | None = None
        self._tokens: TokenBucket | None = None
        link.closings = TRANSLATED

    def start(self) -> None:
        """Wait for the first command."""
        self._dependencies.unconnected.start(self)
        if self._session:
            self._dependencies.sessions[self._session] = self

    def stop(self) -> None:
        """Forget everything: the conversation is over."""
        self._dependencies.clients.pop(self.name, None)
        self._dependencies.sessions.pop(self._session, None)
        self._dependencies.unconnected.stop(self)
        self._pings.stop(self)
        for waiting in tuple(self._waiting):
            waiting.cancel()
        self._channels.stop()

    def stale(self) -> None:
        """Close, as the client has sent no command in time."""
        self._link.close_with(STALE)

    def keep_alive(self) -> None:
        """Send a ping, unless data waits; close if nothing has come since the last one."""
        link = self._link
        self._pings.start(self)
        if link.send_queue.paused:
            return
        if not (self._is_heard or self._is_unidirectional):
            link.close_with(NO_PONG)
            return
        self._is_heard = False
        wire, ping = link.wire, self._codec.frame(self._codec.ping)
        wire.traffic.bytes_out += len(ping)
        wire.push_frames(ping)

    @property
    def user(self) -> str:
        """The user that its token is of; empty without one."""
        return subject_of(self._channels.caller.identity)

    @property
    def closable(self) -> Closable:
        """The connection, as others close it."""
        return self._link

    def unsubscribe(self, channel: str) -> None:
        """End the subscription to a channel, if there is one."""
        self._channels.end(channel)

    def expire_at(self, time: float) -> None:
        """Let the connection end at a time, in seconds since 1970, and tell the client."""
        self._dependencies.state.connections.close_at(self._link, time + LEEWAY)
        told = lifetime(self._dependencies.authorizer, time)
        self._send({"push": {"refresh": told}})

    def connect(self, request: dict[str, Any]) -> None:
        """Connect a client that sends nothing else."""
        self._start_connecting(_ONLY, request)

    def receive_apart(self, commands: bytes) -> None:
        """Carry out the commands in the body of a request."""
        traffic = self._link.wire.traffic
        traffic.messages_in += 1
        traffic.bytes_in += len(commands)
        self.receive(commands, is_counted=False)

    def receive(self, frame: str | bytes, *, is_counted: bool = True) -> None:
        """Carry out the commands in a frame.

        :param is_counted: whether the rate of frames is limited elsewhere.
        """
        self._is_heard = True
        try:
            commands = self._codec.read(frame)
        except ValueError as error:
            self._break(str(error))
            return
        if not self._takes(len(commands) - 1 if is_counted else max(1, len(commands))):
            self._link.close_with(TOO_MANY_REQUESTS)
            return
        for command in commands:
            if self._link.is_closed():
                break
            self._carry_out(command)

    def _takes(self, count: int) -> bool:
        """Whether as many commands may come now."""
        if count < 1:
            return True
        if self._commands is None:
            most, now = self._dependencies.state.limits.max_rate, self._dependencies.clock.seconds
            self._commands = TokenBucket(rate=most, burst=_BURST * most, now=now)
        return self._commands.take(count)

    def _carry_out(self, command: dict[str, Any]) -> None:
        id = command.pop("id", 0)
        kinds = list(command)
        if not command and not id:
            return  # The answer to a ping.
        if self._state is not _State.CONNECTED:
            if kinds != ["connect"] or self._state is _State.CONNECTING or not id:
                self._break("the first command must be connect, and be answered before others")
                return
            self._start_connecting(id, command["connect"])
        elif kinds == ["send"]:
            if self._asking is not None:
                self._begin(id, self._take(command["send"]))
        elif not id:
            self._break("a command must have an id")
        elif kinds == ["subscribe"]:
            self._begin(id, self._subscribe(id, command["subscribe"]))
        elif len(kinds) == 1 and kinds[0] in _ANSWERS:
            self._begin(id, self._answer(id, kinds[0], command[kinds[0]]))
        elif kinds == ["connect"]:
            self._refuse(id, CommandRefused(ErrorCode.BAD_REQUEST, "already connected"))
        else:
            self._refuse(id, CommandRefused(ErrorCode.METHOD_NOT_FOUND, "unknown command"))

    def _start_connecting(self, id: int, request: dict[str, Any]) -> None:
        self._state = _State.CONNECTING
        self._dependencies.unconnected.stop(self)
        self._begin(id, self._connect(id, request))

    def _begin(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        """Carry out a command, which may have to wait for something."""
        most = self._dependencies.state.limits.max_topics + _MAX_WAITING
        if len(self._waiting) >= most:
            work.close()
            if id:  # A message has no answer.
                line = "too many commands wait for their answers"
                self._refuse(id, CommandRefused(ErrorCode.TOO_MANY_REQUESTS, line, temporary=True))
            return
        done = Deferred.fromCoroutine(work)
        self._waiting[done] = None
        done.addBoth(self._finish, id, done)

    def _finish(self, result: object, id: int, done: Deferred[None]) -> None:
        del self._waiting[done]
        if not self._waiting:
            self._waiting.clear()  # Without it, Python keeps room for what was in it.
        if not isinstance(result, Failure) or not id or result.check(CancelledError):
            return
        error = result.value
        if isinstance(error, BadRequest | Denied):
            error = refusal_of(error)
        elif isinstance(error, Unavailable):
            line = "temporarily unavailable"
            error = CommandRefused(ErrorCode.INTERNAL_ERROR, line, temporary=True)
        elif not isinstance(error, CommandRefused):
            connection = self._dependencies.state.connections.find(self._link)
            _log.failure(
                "a command of Centrifuge client #{connection} failed",
                failure=result,
                event="command_failed",
                connection=connection and connection.id,
            )
            error = CommandRefused(ErrorCode.INTERNAL_ERROR, "internal error", temporary=True)
        if self._state is _State.CONNECTING:
            self._state = _State.NEW
            self._channels.stop()
            self._dependencies.unconnected.start(self)
        self._refuse(id, error)

    # Commands

    async def _connect(self, id: int, request: dict[str, Any]) -> None:
        channels, token = self._channels, request.get("token", "")
        if token:
            self._identify(token)
        identity = channels.caller.identity
        try:
            names = [*channels_of(identity), *channels.personal]
        except BadToken as bad:
            self._link.close_with(invalid_token(str(bad)))
            return
        prepared = await channels.prepare(names, request.get("subs", {}))
        result = {
            "client": self.name,
            "version": f"pushd {pushd.__version__}",
            **self._lifetime(),
            "ping": KEEP_ALIVE_INTERVAL,
        }
        if not self._is_unidirectional:
            result["pong"] = True
        if self._session:
            result |= {"session": self._session, "node": self._dependencies.node}
        if prepared:
            result["subs"] = {name: one for name, (_, one) in prepared.items()}
        self._state = _State.CONNECTED
        self._dependencies.clients[self.name] = self
        self._send({"id": id, "connect": result})
        if self._link.is_closed():
            return
        self._pings.start(self)
        channels.start(prepared)

    async def _refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._tokens is None:
            now = self._dependencies.clock.seconds
            self._tokens = TokenBucket(rate=_TOKEN_RATE, burst=_TOKEN_BURST, now=now)
        if not self._tokens.take():
            raise CommandRefused(ErrorCode.TOO_MANY_REQUESTS, "too many tokens", temporary=True)
        self._identify(request.get("token", ""))
        answer = {
            "client": self.name,
            "version": f"pushd {pushd.__version__}",
            **self._lifetime(),
        }
        await self._channels.authorize_again()
        return answer

    async def _subscribe(self, id: int, request: dict[str, Any]) -> None:
        await self._channels.subscribe(
            request, lambda result: self._send({"id": id, "subscribe": result})
        )

    async def _sub_refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self._channels.refresh(request)

    async def _unsubscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._channels.unsubscribe(request)
        return {}

    async def _publish(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("type"):
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "map publications are not available")
        state = self._dependencies.state
        topic = await self._channels.require("publish", request.get("channel", ""))
        if "data" not in request:
            raise CommandRefused(ErrorCode.BAD_REQUEST, "data is required")
        try:
            data, is_json = self._codec.data(request["data"])
        except ValueError as error:
            raise CommandRefused(ErrorCode.BAD_REQUEST, f"data: {error}") from None
        limit = state.rules.find(topic).message_limit(state.limits.max_message)
        if len(data.encode() if isinstance(data, str) else data) > limit:
            raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, f"data must be at most {limit} bytes")
        await state.hub.room()
        try:
            metadata = json.dumps({"info": self._channels.info_of(request["channel"])})
            draft = Draft(topic, data, is_json=is_json, metadata=check_metadata(metadata))
        except ValueError as error:
            raise CommandRefused(ErrorCode.BAD_REQUEST, f"info of the token: {error}") from None
        await state.broker.publish_all((draft,))
        return {}

    async def _presence(self, request: dict[str, Any]) -> dict[str, Any]:
        listed = await self._describe(request)
        return {"presence": clients_of(listed, self._codec.value)}

    async def _presence_stats(self, request: dict[str, Any]) -> dict[str, Any]:
        return stats_of(await self._describe(request))

    async def _describe(self, request: dict[str, Any]) -> Any:
        attendances, name = self._dependencies.state.attendances, request.get("channel", "")
        if not attendances.has(self._channels.topic_of(name)):
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "channel has no presence")
        return await attendances.describe(await self._channels.require("presence", name))

    async def _history(self, request: dict[str, Any]) -> dict[str, Any]:
        topic = await self._channels.require("subscribe", request.get("channel", ""))
        page = await read_page(self._dependencies.state.broker, topic, request)
        publications = [self._codec.publication(one) for one in page.publications]
        return {
            "publications": publications,
            "epoch": page.last.epoch,
            "offset": page.last.offset,
        }

    async def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        result = await self._ask(request.get("method", ""), request.get("data"))
        return {"data": self._codec.result(result)}

    async def _take(self, message: dict[str, Any]) -> None:
        """Pass on a message, which has no answer."""
        with suppress(CommandRefused, Denied):
            await self._ask(None, message.get("data"))

    async def _ask(self, method: str | None, data: Any) -> Any:
        """Return what the operator's function answers."""
        procedures, asking = self._dependencies.procedures, self._asking
        if procedures is None or asking is None:
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "there are no procedures (--rpc)")
        if data is not None:
            data = self._codec.argument(data)
        return await procedures.call(asking, self._channels.caller.identity, method, data)

    async def _answer_ping(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    # Private

    def _identify(self, token: str) -> None:
        """Take the client's token. Raises CommandRefused, and CancelledError after closing."""
        authorizer, caller = self._dependencies.authorizer, self._channels.caller
        try:
            identity = read_connection_token(authorizer, token)
        except TokenExpired as expired:
            raise CommandRefused(ErrorCode.TOKEN_EXPIRED, str(expired)) from None
        except BadToken as bad:
            self._link.close_with(invalid_token(str(bad)))
            raise CancelledError from None
        if identity is None:
            return
        is_refresh = self._state is _State.CONNECTED
        if is_refresh and identity.subject != subject_of(caller.identity):
            self._link.close_with(invalid_token("token is for another user"))
            raise CancelledError
        self._channels.caller = with_identity(caller, identity)
        connections = self._dependencies.state.connections
        connections.close_at(self._link, identity.expires + LEEWAY, identity.closing)
        connection = connections.find(self._link)
        assert connection is not None  # It is open, or no command would be carried out.
        connection.subject = identity.subject or None

    def _lifetime(self) -> dict[str, Any]:
        identity: Identity | None = self._channels.caller.identity
        expires = inf if identity is None else identity.expires
        return lifetime(self._dependencies.authorizer, expires)

    async def _answer(self, id: int, kind: str, request: dict[str, Any]) -> None:
        self._send({"id": id, kind: await _ANSWERS[kind](self, request)})

    def _refuse(self, id: int, refused: CommandRefused) -> None:
        if self._is_unidirectional:
            self._link.close_with(closing_of(refused))
            return
        error: dict[str, Any] = {"code": refused.code, "message": refused.message}
        if refused.temporary:
            error["temporary"] = True
        self._send({"id": id, "error": error})

    def _send(self, reply: Mapping[str, Any]) -> None:
        if not self._link.is_closed():
            self._link.wire.push(self._codec.write([reply]), binary=self._codec.binary)

    def _break(self, reason: str) -> None:
        """Close, as the client breaks the protocol."""
        self._link.close_with(bad_request(reason))


# What answers the commands of a connected client, but for subscribe.
_ANSWERS: Mapping[
    str, Callable[[Connection, dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]
] = {
    "unsubscribe": Connection._unsubscribe,
    "publish": Connection._publish,
    "presence": Connection._presence,
    "presence_stats": Connection._presence_stats,
    "history": Connection._history,
    "ping": Connection._answer_ping,
    "rpc": Connection._call,
    "refresh": Connection._refresh,
    "sub_refresh": Connection._sub_refresh,
}
