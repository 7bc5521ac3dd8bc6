"""``/healthz``, ``/readyz`` and ``/metrics`` of the control port."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.access.counters import Counters
from pushd.protocols.http.response import Response, refusal, write_response

_JSON = "application/json"


class ReadOnlyResource(Resource):
    """Answers GET and HEAD with the current state of something, and OPTIONS likewise.

    OPTIONS is the method of HAProxy's health checks, which look at the status.

    :param read: returns the response.
    """

    isLeaf = True

    def __init__(self, read: Callable[[], Response]) -> None:
        super().__init__()
        self._read = read

    def render(self, request: Any) -> int:
        """Answer, or refuse another method."""
        if request.method in (b"GET", b"HEAD", b"OPTIONS"):
            response = self._read()
        else:
            response = refusal(405, "method not allowed; use GET or HEAD")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD, OPTIONS")
        write_response(request, response)
        return NOT_DONE_YET


class Readiness:
    """Whether a load balancer may send traffic to the daemon.

    :param checks: further conditions; each returns the reason that stops traffic, or None.
    """

    def __init__(self, *checks: Callable[[], str | None]) -> None:
        #: Further conditions.
        self.checks = [*checks]
        #: True while the public port is open.
        self.listening = False
        #: True once the daemon has begun to shut down.
        self.draining = False

    def reason(self) -> str | None:
        """Return the reason that stops traffic; None if the daemon is ready."""
        if self.draining:
            return "draining"
        for check in self.checks:
            if (why := check()) is not None:
                return why
        return None if self.listening else "not listening"


def health_resource() -> ReadOnlyResource:
    """Make ``/healthz``. It always answers 200: a blocked reactor would not answer at all."""
    return ReadOnlyResource(lambda: _uncached(200, _JSON, '{"status": "alive"}\n'))


def readiness_resource(readiness: Readiness) -> ReadOnlyResource:
    """Make ``/readyz``: 200 if the daemon is ready for traffic, 503 with the reason if not."""

    def read() -> Response:
        reason = readiness.reason()
        if reason is None:
            return _uncached(200, _JSON, '{"status": "ready"}\n')
        body = json.dumps({"status": "not ready", "reason": reason})
        return _uncached(503, _JSON, f"{body}\n")

    return ReadOnlyResource(read)


def metrics_resource(counters: Counters) -> ReadOnlyResource:
    """Make ``/metrics``: all metrics in Prometheus' text format."""
    return ReadOnlyResource(lambda: _uncached(200, CONTENT_TYPE_LATEST, counters.render()))


def _uncached(status: int, kind: str, body: str | bytes) -> Response:
    return Response(status, {"Content-Type": kind, "Cache-Control": "no-store"}, body)
