"""A resource whose answer a coroutine makes, and what may be wrong with a request for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.connections import Connections
from pushd.access.limits import Limits
from pushd.errors import BadRequest, Unavailable
from pushd.protocols.http.response import Response, json_refusal, write_response
from pushd.topics.broker import Broker
from pushd.topics.hub import Hub
from pushd.topics.scheduled import ScheduledPublications


@dataclass(kw_only=True)
class PublishContext:
    """What it takes to publish, and to tell operators what is there."""

    clock: IReactorTime
    broker: Broker
    hub: Hub
    scheduled: ScheduledPublications
    connections: Connections
    limits: Limits


class AsyncResource(Resource):
    """A resource whose answer is a Response that a coroutine makes."""

    isLeaf = True

    def __init__(self, door: PublishContext, name: str = "") -> None:
        super().__init__()
        self._door = door
        self._name = name

    def render(self, request: Any) -> int:
        """Answer, unless the client leaves before."""
        answering = Deferred.fromCoroutine(self._try(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addCallback(lambda response: write_response(request, response))
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    async def answer(self, request: Any) -> Response:
        """Make the answer; Wrong says why there is none."""
        raise NotImplementedError

    async def _try(self, request: Any) -> Response:
        try:
            return await self.answer(request)
        except BadRequest as wrong:
            return json_refusal(wrong.status, str(wrong), wrong.where, wrong.headers)
        except Unavailable as error:
            headers = {"Retry-After": f"{error.retry_after}"}
            return json_refusal(503, self.explain(error), "broker", headers)

    def explain(self, error: Unavailable) -> str:
        """What to tell of a broker that is away."""
        return str(error)

    def _failed(self, failure: Failure, request: Any) -> None:
        if not request._disconnected:
            request.processingFailed(failure)


def allow(request: Any, *methods: str) -> None:
    """Raise Wrong for a request that is made with another method."""
    if request.method.decode("latin-1") not in methods:
        allowed = ", ".join(methods)
        raise BadRequest(f"this address takes {allowed}", "method", 405, {"Allow": allowed})
