"""Event streams of sse-starlette."""

from __future__ import annotations

from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from tests.live.asgi.client import PATIENCE, serving


def test_events(tmp_path: Path) -> None:
    """Events arrive as they are made; the stream ends with its client, or with the daemon."""
    with serving("sse_application:application", tmp_path) as server:
        with server.http.stream("GET", "/events?name=first") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            data = [line for line, _ in zip(lines, range(20), strict=False) if "data" in line]
        assert data[:3] == ["data: 0", "data: 1", "data: 2"]
        deadline = monotonic() + PATIENCE
        while server.http.get("/ended").json() != ["first"]:
            assert monotonic() < deadline
            sleep(0.05)
        with server.http.stream("GET", "/events?name=second") as answer:
            lines = answer.iter_lines()
            next(lines)
            assert server.daemon.stop() == 0
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    server.daemon.wait_for("second has ended")
