"""The HTTP API of Centrifugo at the control port: ``POST /api/<method>`` with JSON.

The status is 200 even if a method fails: its error is in the body. Only a wrong key, and what is no
such request at all, have a status of their own.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from fnmatch import fnmatchcase
from hashlib import sha256
from hmac import compare_digest
from typing import Any, NoReturn

import pushd
from pushd.access.closing import Closing
from pushd.access.connections import Closable
from pushd.api.centrifuge.codec import JsonCodec, to_json_line
from pushd.api.centrifuge.codes import CONNECTION_EXPIRED, FORCED, ErrorCode
from pushd.api.centrifuge.dependencies import CentrifugeDependencies
from pushd.api.centrifuge.history import read_page
from pushd.api.centrifuge.presence import clients_of, stats_of
from pushd.api.centrifuge.schema import Field, read_message
from pushd.api.publish import read_header, read_key
from pushd.api.resource import AsyncResource, require_known
from pushd.errors import BadRequest, CommandRefused, Unavailable
from pushd.protocols.http.response import JSON_HEADERS, Response
from pushd.topics.broker import Draft
from pushd.topics.publication import Id, check_topic

#: Where it is served.
PREFIX = "/api/"

# Commands in one batch, and channels of one broadcast, at most.
_MAX_BATCH = 1000

_CHANNEL = {"channel": Field(0, "string")}
_PUBLICATION = {
    "data": Field(0, "bytes"),
    "b64data": Field(0, "string"),
    "skip_history": Field(0, "bool"),
    "tags": Field(0, "string", "map"),
    "idempotency_key": Field(0, "string"),
}
_USER = {"user": Field(0, "string"), "client": Field(0, "string")}

# Bytes of the tags of a publication, as JSON in ASCII.
_MAX_TAGS = 4096

# The requests, by method, and what they consist of. The numbers of fields are of no use in JSON.
_MESSAGES: Mapping[str, Mapping[str, Field]] = {
    "publish": {**_CHANNEL, **_PUBLICATION},
    "broadcast": {"channels": Field(0, "string", "many"), **_PUBLICATION},
    "presence": _CHANNEL,
    "presence_stats": _CHANNEL,
    "history": {
        **_CHANNEL,
        "limit": Field(0, "int32"),
        "since": Field(0, "position"),
        "reverse": Field(0, "bool"),
    },
    "history_remove": _CHANNEL,
    "channels": {"pattern": Field(0, "string")},
    "disconnect": {
        **_USER,
        "whitelist": Field(0, "string", "many"),
        "disconnect": Field(0, "closing"),
    },
    "unsubscribe": {**_USER, **_CHANNEL},
    "refresh": {**_USER, "expired": Field(0, "bool"), "expire_at": Field(0, "int64")},
    "info": {},
    "batch": {"commands": Field(0, "command", "many"), "parallel": Field(0, "bool")},
    "position": {"offset": Field(0, "uint64"), "epoch": Field(0, "string")},
    "closing": {"code": Field(0, "uint32"), "reason": Field(0, "string")},
    "command": {},
}


class HttpApi:
    """The methods.

    :param key: what requests must prove to know; None for no key.
    """

    def __init__(self, dependencies: CentrifugeDependencies, key: bytes | None) -> None:
        self._dependencies = dependencies
        self._state = dependencies.state
        self._key = key
        self._codec = JsonCodec()
        self._started = dependencies.clock.seconds()
        # A random name, which tells this process from others.
        self._name = dependencies.make_name()
        self._methods: Mapping[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "publish": self._publish,
            "broadcast": self._broadcast,
            "presence": self._presence,
            "presence_stats": self._presence_stats,
            "history": self._history,
            "history_remove": self._history_remove,
            "channels": self._channels,
            "disconnect": self._disconnect,
            "unsubscribe": self._unsubscribe,
            "refresh": self._refresh,
            "info": self._info,
        }
        # What is done, or asked, at each node.
        self._local: Mapping[str, Callable[[dict[str, Any]], Any]] = {
            "channels": self._channels_here,
            "disconnect": self._disconnect_here,
            "unsubscribe": self._unsubscribe_here,
            "refresh": self._refresh_here,
            "info": self._info_here,
        }
        self._calls = self._state.broker.calls
        if self._calls is not None:
            self._calls.serve(lambda method, request: self._local[method](request))

    def allows(self, key: str | None) -> bool:
        """Whether a request with a key may use the API."""
        if self._key is None:
            return True
        return key is not None and compare_digest(key.encode(errors="replace"), self._key)

    def has(self, method: str) -> bool:
        """Whether there is a method."""
        return method == "batch" or method in self._methods

    async def call(self, method: str, body: Any) -> dict[str, Any]:
        """Return what a method answers: a result or an error, or the replies of a batch."""
        if method != "batch":
            return await self._reply(method, body, "result")
        request = _read(method, body)
        commands = body["commands"] if "commands" in request else []
        if len(commands) > _MAX_BATCH:
            raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, f"at most {_MAX_BATCH} commands")
        return {"replies": [await self._command(command) for command in commands]}

    async def _command(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to one command of a batch."""
        for method, body in command.items():
            if method in self._methods:
                return await self._reply(method, body, method)
        return {"error": _error(ErrorCode.METHOD_NOT_FOUND, "method not found")}

    async def _reply(self, method: str, body: Any, name: str) -> dict[str, Any]:
        try:
            return {name: await self._methods[method](_read(method, body))}
        except CommandRefused as refused:
            return {"error": _error(refused.code, refused.message)}
        except Unavailable as error:
            return {"error": _error(ErrorCode.INTERNAL_ERROR, str(error))}

    # Methods

    async def _publish(self, request: dict[str, Any]) -> dict[str, Any]:
        draft = self._draft(_topic(request.get("channel", "")), request)
        await self._state.hub.room()
        [id] = await self._state.broker.publish_all((draft,))
        return _position(id)

    async def _broadcast(self, request: dict[str, Any]) -> dict[str, Any]:
        channels = request.get("channels", [])
        if len(channels) > _MAX_BATCH:
            raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, f"at most {_MAX_BATCH} channels")
        publication = {key: value for key, value in request.items() if key != "channels"}
        return {
            "responses": [
                await self._reply("publish", {"channel": one, **publication}, "result")
                for one in channels
            ]
        }

    async def _presence(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"presence": clients_of(await self._describe(request), self._codec.value)}

    async def _presence_stats(self, request: dict[str, Any]) -> dict[str, Any]:
        return stats_of(await self._describe(request))

    async def _history(self, request: dict[str, Any]) -> dict[str, Any]:
        page = await read_page(self._state.broker, _topic(request.get("channel", "")), request)
        publications = [self._codec.publication(one) for one in page.publications]
        return {"publications": publications, **_position(page.last)}

    async def _history_remove(self, request: dict[str, Any]) -> dict[str, Any]:
        await self._state.broker.forget(_topic(request.get("channel", "")))
        return {}

    async def _channels(self, request: dict[str, Any]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        for counted in await self._everywhere("channels", request):
            counts.update(counted)
        return {"channels": {name: {"num_clients": counts[name]} for name in sorted(counts)}}

    async def _disconnect(self, request: dict[str, Any]) -> dict[str, Any]:
        _user(request)
        _closing(request)
        await self._everywhere("disconnect", request)
        return {}

    async def _unsubscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        user = _user(request)
        if request.get("client"):
            await self._everywhere("unsubscribe", request)
        else:
            topic = _topic(request.get("channel", ""))
            await self._state.revoker.revoke_everywhere(topic, user)
        return {}

    async def _refresh(self, request: dict[str, Any]) -> dict[str, Any]:
        _user(request)
        await self._everywhere("refresh", request)
        return {}

    async def _info(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"nodes": await self._everywhere("info", request)}

    # What is done at each node

    def _channels_here(self, request: dict[str, Any]) -> dict[str, int]:
        """Return how many subscribers each channel has that matches."""
        pattern = request.get("pattern") or "*"
        hub = self._state.hub
        return {name: hub.count(name) for name in hub.topics() if fnmatchcase(name, pattern)}

    def _disconnect_here(self, request: dict[str, Any]) -> None:
        closing = _closing(request)
        for closable in self._find(request):
            closable.close_with(closing)

    def _unsubscribe_here(self, request: dict[str, Any]) -> None:
        client = self._dependencies.clients.get(request["client"])
        if client is not None and client.user == request["user"]:
            client.unsubscribe(request.get("channel", ""))

    def _refresh_here(self, request: dict[str, Any]) -> None:
        for name, client in tuple(self._dependencies.clients.items()):
            if client.user != request["user"] or request.get("client", name) != name:
                continue
            if request.get("expired"):
                client.closable.close_with(CONNECTION_EXPIRED)
            elif request.get("expire_at"):
                client.expire_at(float(request["expire_at"]))

    def _info_here(self, request: dict[str, Any]) -> dict[str, Any]:
        hub, connections = self._state.hub, tuple(self._state.connections)
        return {
            "uid": self._name,
            "name": "pushd",
            "version": pushd.__version__,
            "num_clients": len(connections),
            "num_users": len({one.subject for one in connections if one.subject}),
            "num_subs": sum(map(hub.count, hub.topics())),
            "num_channels": len(hub.topics()),
            "uptime": int(self._dependencies.clock.seconds() - self._started),
        }

    # Private

    async def _everywhere(self, method: str, request: dict[str, Any]) -> list[Any]:
        """Carry out a method here, then at all other nodes; return what each answers.

        Raises Unavailable if one of them does not answer.
        """
        here = self._local[method](request)
        others = [] if self._calls is None else await self._calls.call(method, request)
        return [here, *others]

    def _draft(self, topic: str, request: dict[str, Any]) -> Draft:
        """Return the publication that a request asks for. Raises CommandRefused."""
        if request.get("skip_history"):
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "skip_history is not available")
        metadata = None
        if request.get("tags"):
            metadata = json.dumps({"tags": request["tags"]})
            if len(metadata) > _MAX_TAGS:
                line = f"tags must be at most {_MAX_TAGS} bytes of JSON"
                raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, line)
        data: str | bytes
        try:
            if request.get("b64data"):
                data, is_json = b64decode(request["b64data"], validate=True), False
            else:
                data, is_json = self._codec.data(request.get("data"))
        except ValueError as error:
            raise CommandRefused(ErrorCode.BAD_REQUEST, str(error)) from None
        limit = self._state.rules.find(topic).message_limit(self._state.limits.max_message)
        if len(data.encode() if isinstance(data, str) else data) > limit:
            raise CommandRefused(ErrorCode.LIMIT_EXCEEDED, f"data must be at most {limit} bytes")
        return Draft(topic, data, _idempotency_key(request), is_json=is_json, metadata=metadata)

    async def _describe(self, request: dict[str, Any]) -> Any:
        topic = _topic(request.get("channel", ""))
        if not self._state.attendances.has(topic):
            raise CommandRefused(ErrorCode.NOT_AVAILABLE, "channel has no presence")
        return await self._state.attendances.describe(topic)

    def _find(self, request: dict[str, Any]) -> list[Closable]:
        """Return the connections of a user, over any transport, but for those to be kept."""
        user, clients = _user(request), self._dependencies.clients
        kept = {clients[name].closable for name in request.get("whitelist", ()) if name in clients}
        client = clients.get(request.get("client", ""))
        return [
            one.closable
            for one in self._state.connections
            if one.subject == user
            and one.closable not in kept
            and (not request.get("client") or (client and client.closable is one.closable))
        ]


class HttpApiResource(AsyncResource):
    """One method of the API."""

    methods = ("POST",)

    def __init__(self, api: HttpApi, method: str) -> None:
        super().__init__(api._state, method)
        self._api = api

    async def answer(self, request: Any) -> Response:
        """Call the method."""
        if not self._api.allows(_read_key(request)):
            raise BadRequest("X-API-Key is missing or wrong", "X-API-Key", 401)
        if not self._api.has(self._name):
            raise BadRequest("no such method", "method", 404)
        require_known(request)
        try:
            body = json.loads(request.content.read() or b"{}", parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise BadRequest("the body is not valid JSON", "body") from None
        try:
            reply = await self._api.call(self._name, body)
        except CommandRefused as refused:
            reply = {"error": _error(refused.code, refused.message)}
        if "error" in reply:
            # For the log: the status does not tell.
            request.why_refused = "error {code}: {message}".format_map(reply["error"])
        return Response(200, JSON_HEADERS, f"{to_json_line(reply)}\n")


def _read(method: str, body: Any) -> dict[str, Any]:
    try:
        return read_message(method, body, _MESSAGES)
    except ValueError as error:
        raise CommandRefused(ErrorCode.BAD_REQUEST, str(error)) from None


def _topic(channel: str) -> str:
    try:
        return check_topic(channel)
    except ValueError as error:
        raise CommandRefused(ErrorCode.BAD_REQUEST, str(error)) from None


def _user(request: dict[str, Any]) -> str:
    user: str = request.get("user", "")
    if not user:
        raise CommandRefused(ErrorCode.BAD_REQUEST, "user is required")
    return user


def _idempotency_key(request: dict[str, Any]) -> str | None:
    """Return the key that makes a publication safe to repeat; None without one.

    In Centrifugo it may be any text. One that pushd does not have is kept as its hash: it may be
    long, and keys with a blank are those of publishers at the public port.
    """
    given: str = request.get("idempotency_key", "")
    try:
        return read_key(given or None, "idempotency_key")
    except BadRequest:
        return sha256(given.encode()).hexdigest()


def _closing(request: dict[str, Any]) -> Closing:
    """Return how connections are to be closed."""
    given = request.get("disconnect", {})
    try:
        return Closing(given.get("code") or FORCED.code, given.get("reason") or FORCED.reason)
    except ValueError as error:
        raise CommandRefused(ErrorCode.BAD_REQUEST, str(error)) from None


def _read_key(request: Any) -> str | None:
    """Return the key that a request has: in its header of the API, or as an authorization."""
    given = read_header(request, b"X-Api-Key")
    if given is not None:
        return given
    scheme, _, key = (read_header(request, b"Authorization") or "").partition(" ")
    return key.strip() if scheme.lower() == "apikey" else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _position(id: Id) -> dict[str, Any]:
    return {"offset": id.offset, "epoch": id.epoch}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"code": int(code), "message": message}
