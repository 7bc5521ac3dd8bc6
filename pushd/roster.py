"""``/connections`` at the control door: who is here, and closing one."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from pushd.access.closing import Closing
from pushd.access.connections import Connection
from pushd.async_resource import AsyncResource, Wrong, allow
from pushd.protocols.http.response import Response, json_response

# How many connections one answer lists.
_MAX_LIST = 1000

# How an operator closes unless they say it otherwise: a client need not come back at once.
_CODE = 1008
_REASON = "closed by an operator"

_ID = re.compile(r"[0-9]{1,18}")


class ConnectionList(AsyncResource):
    """``/connections``: those that are open, by their ids; ``?after=ID`` goes on behind one."""

    async def answer(self, request: Any) -> Response:
        """List them."""
        allow(request, "GET")
        given = _argument(request, "after") or "0"
        if not _ID.fullmatch(given):
            raise Wrong("after is the id of a connection", "after")
        self._door.hub.settle()
        rest = (one for one in self._door.connections if one.id > int(given))
        listed = [connection_json(one) for one in islice(rest, _MAX_LIST)]
        more = next(rest, None) is not None
        return json_response(200, {"connections": listed, "more": more})


class ConnectionControl(AsyncResource):
    """``/connections/<id>``: one of them."""

    async def answer(self, request: Any) -> Response:
        """Tell of it with GET, close it with DELETE, ``?code=`` and ``?reason=``."""
        allow(request, "GET", "DELETE")
        id = int(self._name) if _ID.fullmatch(self._name) else 0
        connection = self._door.connections.get(id)
        if connection is None:
            raise Wrong("there is no such connection, or it has ended", "connection", 404)
        if request.method == b"GET":
            self._door.hub.settle()
            return json_response(200, connection_json(connection))
        connection.visitor.close_with(_closing(request))
        return Response(204)


def connection_json(connection: Connection) -> dict[str, Any]:
    """A connection as JSON has it."""
    traffic = connection.traffic
    return {
        "id": connection.id,
        "transport": connection.visitor.transport,
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
        raise Wrong("code is a close code, 1000 to 4999", "code")
    try:
        Closing(int(code))
    except ValueError as error:
        raise Wrong(error, "code") from None
    try:
        return Closing(int(code), _argument(request, "reason") or _REASON)
    except ValueError as error:
        raise Wrong(error, "reason") from None


def _argument(request: Any, name: str) -> str | None:
    values = request.args.get(name.encode())
    return values[-1].decode(errors="replace") if values else None
