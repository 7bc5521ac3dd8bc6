"""``/schedules`` at the control door: the timed pushes, listed and cancelled."""

from __future__ import annotations

from typing import Any

from pushd.async_resource import AsyncResource, Wrong, allow
from pushd.protocols.http.response import Response, json_response
from pushd.topics.scheduled import TimedPush


class ScheduleList(AsyncResource):
    """``/schedules``: those that still have something to do."""

    async def answer(self, request: Any) -> Response:
        """List them."""
        allow(request, "GET")
        pushes = [schedule_json(push) for push in self._door.timed.all()]
        return json_response(200, {"schedules": pushes})


class ScheduleControl(AsyncResource):
    """``/schedules/<id>``: one of them."""

    async def answer(self, request: Any) -> Response:
        """Tell of it with GET, cancel it with DELETE."""
        allow(request, "GET", "DELETE")
        push = self._door.timed.get(self._name)
        if push is None:
            raise Wrong("there is no such schedule, or it has ended", "schedule", 404)
        if request.method == b"GET":
            return json_response(200, schedule_json(push))
        push.cancel()
        return Response(204)


def schedule_json(push: TimedPush) -> dict[str, Any]:
    """A timed push as JSON has it."""
    return {
        "schedule": push.id,
        "topic": push.topic,
        "count": push.count,
        "done": push.done,
        "every": push.every,
    }
