"""Whether the daemon is alive and ready, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.counters import Metrics
from pushd.protocols.http.response import Response, refusal, write_response


class ReadOnlyResource(Resource):
    """Something to be read with GET or HEAD, as it is at the moment.

    :param read: makes the answer.
    """

    isLeaf = True

    def __init__(self, read: Callable[[], Response]) -> None:
        super().__init__()
        self._read = read

    def render(self, request: Any) -> int:
        """Answer, unless more is asked for than to read."""
        if request.method in (b"GET", b"HEAD"):
            response = self._read()
        else:
            response = refusal(405, "this is read with GET or HEAD", {"Allow": "GET, HEAD"})
        write_response(request, response)
        return NOT_DONE_YET


def health_resource() -> ReadOnlyResource:
    """``/healthz``: 200 says that the reactor turns, as else nobody would answer."""
    return ReadOnlyResource(lambda: _fresh("application/json", '{"status": "alive"}\n'))


def readiness_resource(readiness: Readiness) -> ReadOnlyResource:
    """``/readyz``: 200 says that there may be traffic; 503 says why not."""

    def read() -> Response:
        reason = readiness.reason()
        if reason is None:
            return _fresh("application/json", '{"status": "ready"}\n')
        body = json.dumps({"status": "not ready", "reason": reason})
        return replace(_fresh("application/json", f"{body}\n"), status=503)

    return ReadOnlyResource(read)


def metrics_resource(metrics: Metrics) -> ReadOnlyResource:
    """``/metrics``: everything that is counted, in Prometheus' text format."""
    return ReadOnlyResource(lambda: _fresh(CONTENT_TYPE_LATEST, metrics.render()))


def _fresh(kind: str, body: str | bytes) -> Response:
    return Response(headers={"Content-Type": kind, "Cache-Control": "no-store"}, body=body)


class Readiness:
    """What a load balancer wants to know.

    :param checks: whom to ask beside: each gives why not, or None where all is well. One that
        speaks of a broker says here whether it can be reached.
    """

    def __init__(self, *checks: Callable[[], str | None]) -> None:
        self._checks = checks
        #: Whether the public port is open.
        self.listening = False
        #: Whether the daemon stops.
        self.draining = False

    def reason(self) -> str | None:
        """Why there should be no traffic; None if there may be."""
        if self.draining:
            return "draining"
        if not self.listening:
            return "not listening"
        return next((why for check in self._checks if (why := check()) is not None), None)
