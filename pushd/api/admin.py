"""The control port's lists: ``/connections``, ``/schedules`` and ``/topics``."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import Any

from pushd.access.closing import Closing
from pushd.access.connections import Connection
from pushd.api.resource import ApiContext, AsyncResource, allow
from pushd.errors import BadRequest
from pushd.protocols.http.response import Response, json_response
from pushd.topics.publication import Id
from pushd.topics.scheduled import ScheduledPublication
from pushd.topics.subscription import transport_of


class ScheduleListResource(AsyncResource):
    """``/schedules``: those that still have something to do."""

    async def answer(self, request: Any) -> Response:
        """List them."""
        allow(request, "GET")
        pushes = [schedule_json(push) for push in self._context.scheduled.all()]
        return json_response(200, {"schedules": pushes})


class ScheduleResource(AsyncResource):
    """``/schedules/<id>``: one of them."""

    async def answer(self, request: Any) -> Response:
        """Tell of it with GET, cancel it with DELETE."""
        allow(request, "GET", "DELETE")
        push = self._context.scheduled.get(self._name)
        if push is None:
            raise BadRequest("there is no such schedule, or it has ended", "schedule", 404)
        if request.method == b"GET":
            return json_response(200, schedule_json(push))
        push.cancel()
        return Response(204)


def schedule_json(push: ScheduledPublication) -> dict[str, Any]:
    """A timed push as JSON has it."""
    return {
        "schedule": push.id,
        "topic": push.topic,
        "count": push.count,
        "done": push.done,
        "every": push.every,
    }


# How many connections one answer lists.
_MAX_LIST = 1000

# How an operator closes unless they say it otherwise: a client need not come back at once.
_CODE = 1008
_REASON = "closed by an operator"

_ID = re.compile(r"[0-9]{1,18}")


class ConnectionListResource(AsyncResource):
    """``/connections``: those that are open, by their ids; ``?after=ID`` goes on behind one."""

    async def answer(self, request: Any) -> Response:
        """List them."""
        allow(request, "GET")
        given = _argument(request, "after") or "0"
        if not _ID.fullmatch(given):
            raise BadRequest("after is the id of a connection", "after")
        self._context.hub.flush_counters()
        rest = (one for one in self._context.connections if one.id > int(given))
        listed = [connection_json(one) for one in islice(rest, _MAX_LIST)]
        more = next(rest, None) is not None
        return json_response(200, {"connections": listed, "more": more})


class ConnectionResource(AsyncResource):
    """``/connections/<id>``: one of them."""

    async def answer(self, request: Any) -> Response:
        """Tell of it with GET, close it with DELETE, ``?code=`` and ``?reason=``."""
        allow(request, "GET", "DELETE")
        id = int(self._name) if _ID.fullmatch(self._name) else 0
        connection = self._context.connections.get(id)
        if connection is None:
            raise BadRequest("there is no such connection, or it has ended", "connection", 404)
        if request.method == b"GET":
            self._context.hub.flush_counters()
            return json_response(200, connection_json(connection))
        connection.closable.close_with(_closing(request))
        return Response(204)


def connection_json(connection: Connection) -> dict[str, Any]:
    """A connection as JSON has it."""
    traffic = connection.traffic
    return {
        "id": connection.id,
        "transport": connection.closable.transport,
        "peer": connection.peer,
        "path": connection.path,
        "since": datetime.fromtimestamp(connection.since, UTC).isoformat(timespec="milliseconds"),
        "subject": connection.subject,
        "messages_in": traffic.messages_in,
        "bytes_in": traffic.bytes_in,
        "messages_out": traffic.messages_out,
        "bytes_out": traffic.bytes_out,
    }


def _closing(request: Any) -> Closing:
    code = _argument(request, "code") or str(_CODE)
    if not re.fullmatch("[0-9]{4}", code):
        raise BadRequest("code is a close code, 1000 to 4999", "code")
    try:
        Closing(int(code))
    except ValueError as error:
        raise BadRequest(error, "code") from None
    try:
        return Closing(int(code), _argument(request, "reason") or _REASON)
    except ValueError as error:
        raise BadRequest(error, "reason") from None


def _argument(request: Any, name: str) -> str | None:
    values = request.args.get(name.encode())
    return values[-1].decode(errors="replace") if values else None


# How many topics one answer lists.
_MAX_LIST = 1000


class TopicListResource(AsyncResource):
    """``/topics``: what is there."""

    async def answer(self, request: Any) -> Response:
        """List the topics that somebody listens to, or that are remembered."""
        allow(request, "GET")
        names = {*self._context.hub.topics(), *await self._context.broker.names()}
        first = nsmallest(_MAX_LIST, names)
        topics = [await describe(self._context, name) for name in first]
        return json_response(200, {"topics": topics, "more": len(names) > _MAX_LIST})


async def describe(context: ApiContext, topic: str) -> dict[str, Any]:
    """What there is to tell of a topic, as JSON has it."""
    described: tuple[Id | None, int] = await context.broker.describe(topic)
    last, kept = described
    transports = Counter(map(transport_of, context.hub.subscribers(topic)))
    return {
        "topic": topic,
        "id": None if last is None else str(last),
        "history": kept,
        "subscribers": dict(transports),
    }
