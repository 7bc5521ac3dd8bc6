"""A daemon that serves Centrifuge clients, and the tokens that it accepts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any
from urllib.request import Request, urlopen

import jwt

from tests.support.daemon_process import DaemonProcess

#: The secret of all tokens.
SECRET = b"0123456789abcdef" * 2

#: The key of the HTTP API.
API_KEY = "the-key"

_CONFIG = """
centrifuge = true
centrifuge-personal = "users/*"
centrifuge-secret = ["secret"]
api-key = "api-key"
rpc = "procedures:call"
demo = false
max-topics = 2000

[[topic]]
match = "private/**"

[[topic]]
match = "**"
presence = true
subscribe = "anyone"
publish = "anyone"
"""


_PROCEDURES = """
from pushd.views import RpcError


def call(request, method, data):
    if method != "double":
        raise RpcError(404, "unknown")
    return {"doubled": 2 * data["number"]}
"""


def make_token(ttl: float | None = None, **claims: Any) -> str:
    """Make a token; without a time to live in seconds it never expires."""
    if ttl is not None:
        claims["exp"] = int(time() + ttl)
    return jwt.encode(claims, SECRET, "HS256")


class SdkDaemon(DaemonProcess):
    """A daemon in a folder, on ports that the system picks unless others are given."""

    def __init__(self, folder: Path, *args: str, port: int = 0) -> None:
        (folder / "secret").write_bytes(SECRET)
        (folder / "api-key").write_text(API_KEY)
        (folder / "pushd.toml").write_text(_CONFIG)
        (folder / "procedures.py").write_text(_PROCEDURES)
        options: Sequence[str] = (
            *("--config", "pushd.toml"),
            *("--listen", f"tcp:{port}:interface=127.0.0.1"),
            *("--control", "tcp:0:interface=127.0.0.1"),
        )
        path = os.environ.get("PYTHONPATH")
        environment = {} if path is None else {"PYTHONPATH": path}
        super().__init__((*options, *args), directory=folder, environment=environment)

    @property
    def websocket(self) -> str:
        """The URL of the protocol."""
        return f"{self.url.replace('http', 'ws')}connection/websocket"

    @property
    def api(self) -> str:
        """The URL of the HTTP API."""
        return f"{self.wait_for(r'control port listening on (http://[^ ]+)')[1]}api"

    def call(self, method: str, **body: Any) -> Any:
        """Call a method of the API, and return its result."""
        request = Request(f"{self.api}/{method}", json.dumps(body).encode(), {"X-API-Key": API_KEY})
        with urlopen(request, timeout=20) as answer:
            return json.load(answer)["result"]
