"""Whether the daemon is alive."""

from __future__ import annotations

from pushd.answers import AnswerResource
from pushd.views import Response


def alive() -> AnswerResource:
    """``/healthz``: 200 says that the reactor turns, as else nobody would answer."""
    return AnswerResource(
        Response(
            headers={"Content-Type": "application/json", "Cache-Control": "no-store"},
            body='{"status": "alive"}\n',
        )
    )
