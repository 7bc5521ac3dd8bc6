"""Whether the daemon is alive, and what it has counted."""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from twisted.web.resource import Resource

from pushd.answers import AnswerResource
from pushd.metrics import Metrics
from pushd.views import Response


def alive() -> AnswerResource:
    """``/healthz``: 200 says that the reactor turns, as else nobody would answer."""
    return AnswerResource(
        Response(
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
            body='{"status": "alive"}\n',
        )
    )


class MetricsResource(Resource):
    """``/metrics``: everything that is counted, in Prometheus' text format."""

    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Any) -> bytes:
        """Answer with the numbers of this moment."""
        request.setHeader(b"content-type", CONTENT_TYPE_LATEST.encode())
        request.setHeader(b"cache-control", b"no-store")
        return self._metrics.render()
