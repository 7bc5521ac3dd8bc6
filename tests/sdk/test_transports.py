"""npm's centrifuge over HTTP, and plain clients that only listen: see transports.mjs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.sdk.daemon import API_KEY, SdkDaemon, make_token
from tests.support.proxies import run_proxy
from tests.support.redis_server import RedisServer

_SCENARIOS = Path(__file__).with_name("transports.mjs")

# Where "make sdk" puts the packages of Node.
_MODULES = Path(__file__).parent.parent.parent / ".venv/sdk"

# Seconds that a scenario may take.
_PATIENCE = 60

#: The transports whose commands come by requests, with their formats.
TRANSPORTS = (("sse", "json"), ("http_stream", "json"), ("http_stream", "protobuf"))


def run(
    daemon: SdkDaemon,
    scenario: str,
    transport: str,
    format: str,
    *,
    url: str | None = None,
    emulation: str = "",
) -> None:
    """Run a scenario, and check that it succeeds.

    :param url: of a proxy, if there is one.
    :param emulation: where commands are sent; by default to the daemon.
    """
    tokens = {
        "expired": make_token(-60, sub="ann"),
        "short": make_token(2, sub="ann"),
        "long": make_token(600, sub="ann"),
        "server": make_token(sub="ann", channels=["news/ann"]),
    }
    environment = {
        "URL_HTTP": daemon.url if url is None else url,
        "URL_EMULATION": emulation,
        "URL_API": daemon.api,
        "API_KEY": API_KEY,
        "TOKENS": json.dumps(tokens),
        "MODULES": os.environ.get("SDK_MODULES", str(_MODULES)),
    }
    done = subprocess.run(
        ["node", str(_SCENARIOS), scenario, transport, format],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("transport", "format"), TRANSPORTS)
@pytest.mark.parametrize("scenario", ["conversation", "recovery", "tokens", "server", "batch"])
def test_scenario(tmp_path: Path, scenario: str, transport: str, format: str) -> None:
    """The SDK does over HTTP what it does over a WebSocket."""
    with SdkDaemon(tmp_path) as daemon:
        run(daemon, scenario, transport, format)


@pytest.mark.parametrize("transport", ["sse", "http_stream"])
def test_slow_paths(tmp_path: Path, transport: str) -> None:
    """Without fast paths all is the same."""
    with SdkDaemon(tmp_path, "--fast-paths", "off") as daemon:
        run(daemon, "conversation", transport, "json")
        run(daemon, "recovery", transport, "json")


@pytest.mark.parametrize(("transport", "format"), TRANSPORTS)
def test_nodes(tmp_path: Path, transport: str, format: str) -> None:
    """With Redis, commands may be sent to another node than that of the stream."""
    with RedisServer() as redis:
        folders = [tmp_path / name for name in ("one", "other")]
        for folder in folders:
            folder.mkdir()
        broker = ("--broker", redis.url)
        with SdkDaemon(folders[0], *broker) as one, SdkDaemon(folders[1], *broker) as other:
            run(one, "nodes", transport, format, emulation=f"{other.url}emulation")


@pytest.mark.parametrize("transport", ["uni_sse", "uni_http_stream", "uni_websocket"])
def test_unidirectional(tmp_path: Path, transport: str) -> None:
    """A client without an SDK is told what is published, and resumes."""
    with SdkDaemon(tmp_path) as daemon:
        run(daemon, "unidirectional", transport, "json")


@pytest.mark.parametrize(("transport", "format"), TRANSPORTS)
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
def test_proxies(tmp_path: Path, proxy: str, transport: str, format: str) -> None:
    """No proxy holds back what is streamed."""
    with SdkDaemon(tmp_path) as daemon:
        upstream = daemon.url.split("/")[2]
        with run_proxy(proxy, upstream, tmp_path) as port:
            url = f"http://localhost:{port}/"
            run(daemon, "conversation", transport, format, url=url)
            run(daemon, "recovery", transport, format, url=url)
