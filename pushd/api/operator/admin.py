"""Connections, subscriptions, schedules and topics, at the control port, for operators."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from heapq import nsmallest
from itertools import islice
from typing import Any

from pushd.access.closing import Closing
from pushd.access.connections import Connection, Connections
from pushd.api.publish import schedule_json, topic_json
from pushd.api.resource import (
    AsyncResource,
    read_argument,
    read_limit,
    require_known,
)
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.http.response import Response, json_response
from pushd.topics.scheduled import MAX_SCHEDULED

# What connections can be searched by.
_SEARCHED = ("transport", "peer", "path", "subject")

# Connections or topics in one response, at most.
_MAX_LIST = 1000

# How an operator closes a connection unless the request says otherwise. With 1008, pushd.js does
# not reconnect.
_CODE = 1008
_REASON = "closed by an operator"

_ID = re.compile(r"[0-9]{1,18}")
_SCHEDULE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class ConnectionListResource(AsyncResource):
    """``/connections``: open connections, oldest first; ``?after=ID`` continues a list.

    ``?transport=`` names one, and ``?peer=``, ``?path=`` and ``?subject=`` are parts of a
    connection's own, in upper or lower case.
    """

    async def answer(self, request: Any) -> Response:
        """List at most ``?limit=`` of them, and count all that match."""
        require_known(request, "after", "limit", *_SEARCHED)
        after = read_argument(request, "after") or "0"
        if not _ID.fullmatch(after):
            raise BadRequest("after must be the id of a connection", "after")
        limit = read_limit(request, _MAX_LIST, _MAX_LIST)
        found = _search(self._state.connections, request)
        self._state.hub.flush_counters()
        rest = (one for one in found if one.id > int(after))
        listed = [connection_json(one) for one in islice(rest, limit)]
        more = next(rest, None) is not None
        return json_response(200, {"connections": listed, "more": more, "total": len(found)})


class ConnectionResource(AsyncResource):
    """``/connections/<id>``: one open connection."""

    methods = ("GET", "DELETE")

    async def answer(self, request: Any) -> Response:
        """Describe it (GET), or close it (DELETE) with ``?code=`` and ``?reason=``."""
        id = int(self._name) if _ID.fullmatch(self._name) else 0
        connection = self._state.connections.get(id)
        if connection is None:
            raise BadRequest("no such connection", "connection", 404)
        if request.method != b"DELETE":
            require_known(request)
            self._state.hub.flush_counters()
            return json_response(200, connection_json(connection))
        require_known(request, "code", "reason")
        connection.closable.close_with(_closing(request))
        return Response(204)


class SubscriptionListResource(AsyncResource):
    """``/subscriptions``: subscriptions, which can be revoked."""

    methods = ("DELETE",)

    async def answer(self, request: Any) -> Response:
        """End those to ``?topic=``, which may be a pattern, or of ``?subject=``, or of both."""
        require_known(request, "topic", "subject")
        topic, subject = read_argument(request, "topic"), read_argument(request, "subject")
        if topic is None and subject is None:
            raise BadRequest("topic or subject must be given", "topic")
        try:
            ended = await self._state.revoker.revoke_everywhere(topic, subject)
        except ValueError as error:
            raise BadRequest(error, "topic") from None
        except Unavailable as error:
            line = f"ended at this node; the others are told as soon as possible: {error}"
            raise BadRequest(line, "broker", 503) from None
        return json_response(200, {"ended": ended})


class ScheduleListResource(AsyncResource):
    """``/schedules``: scheduled publications that are not finished."""

    async def answer(self, request: Any) -> Response:
        """List those of all nodes, oldest first: all, or at most ``?limit=`` of them."""
        require_known(request, "limit")
        pending = await self._state.scheduled.all()
        limit = read_limit(request, MAX_SCHEDULED, MAX_SCHEDULED)
        schedules = [schedule_json(one) for one in pending[:limit]]
        return json_response(200, {"schedules": schedules, "total": len(pending)})


class ScheduleResource(AsyncResource):
    """``/schedules/<id>``: one scheduled publication."""

    methods = ("GET", "DELETE")

    async def answer(self, request: Any) -> Response:
        """Describe it (GET), or cancel it (DELETE)."""
        require_known(request)
        scheduled, id = self._state.scheduled, self._name
        unknown = BadRequest("no such schedule", "schedule", 404)
        if not _SCHEDULE_ID.fullmatch(id):
            raise unknown
        if request.method != b"DELETE":
            state = await scheduled.describe(id)
            if state is None:
                raise unknown
            return json_response(200, schedule_json(state))
        if not await scheduled.cancel(id):
            raise unknown
        return Response(204)


class TopicListResource(AsyncResource):
    """``/topics``: topics that have subscribers or a history.

    ``?name=`` is a part of their names, in upper or lower case.
    """

    async def answer(self, request: Any) -> Response:
        """List at most ``?limit=`` of them, and count all that match.

        They are in the order of their names, or with ``?order=subscribers`` those with the most
        subscribers at this node first.
        """
        require_known(request, "name", "limit", "order")
        limit = read_limit(request, _MAX_LIST, _MAX_LIST)
        order = read_argument(request, "order") or "name"
        if order not in ("name", "subscribers"):
            raise BadRequest("order must be name or subscribers", "order")
        names = {*self._state.hub.topics(), *await self._state.broker.names()}
        if part := (read_argument(request, "name") or "").lower():
            names = {name for name in names if part in name.lower()}
        count = self._state.hub.count
        by_count = order == "subscribers"
        first = nsmallest(limit, names, key=(lambda one: (-count(one), one)) if by_count else None)
        topics = [await topic_json(self._state, name) for name in first]
        return json_response(
            200, {"topics": topics, "more": len(names) > limit, "total": len(names)}
        )


def _search(connections: Connections, request: Any) -> list[Connection]:
    """Return the connections that a request asks for, the oldest first.

    Ten thousand take a few milliseconds, however many match.
    """
    found = list(connections)
    asked = {name: (read_argument(request, name) or "").lower() for name in _SEARCHED}
    if transport := asked["transport"]:
        found = [one for one in found if one.closable.transport == transport]
    if peer := asked["peer"]:
        found = [one for one in found if peer in one.peer]
    if path := asked["path"]:
        found = [one for one in found if path in one.path.lower()]
    if subject := asked["subject"]:
        found = [one for one in found if subject in (one.subject or "").lower()]
    return found


def connection_json(connection: Connection) -> dict[str, Any]:
    """Return the JSON that describes a connection."""
    traffic = connection.traffic
    described = {
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
    if connection.topics is not None:
        described["topics"] = len(connection.topics)
    return described


def _closing(request: Any) -> Closing:
    """Read how a connection shall be closed. Raises BadRequest."""
    code = read_argument(request, "code") or str(_CODE)
    if not re.fullmatch("[0-9]{4}", code):
        raise BadRequest(f"code must be a close code from 1000 to 4999; got {code[:20]}", "code")
    try:
        Closing(int(code))
    except ValueError as error:
        raise BadRequest(error, "code") from None
    try:
        return Closing(int(code), read_argument(request, "reason") or _REASON)
    except ValueError as error:
        raise BadRequest(error, "reason") from None
