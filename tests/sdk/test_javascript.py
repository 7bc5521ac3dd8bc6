"""npm's centrifuge in Node, in JSON and in Protobuf."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.sdk.daemon import API_KEY, SdkDaemon, make_token
from tests.support.held_port import held_port

_SCENARIOS = Path(__file__).with_name("scenarios.mjs")

# Where "make sdk" puts the packages of Node.
_MODULES = Path(__file__).parent.parent.parent / ".venv/sdk"

# Seconds that a scenario may take.
_PATIENCE = 60

FORMATS = ("json", "protobuf")


def start(daemon: SdkDaemon, scenario: str, format: str) -> subprocess.Popen[str]:
    """Start a scenario."""
    tokens = {
        "expired": make_token(-60, sub="ann"),
        "short": make_token(2, sub="ann"),
        "long": make_token(600, sub="ann"),
        "channelShort": make_token(2, sub="ann", channel="private/ann"),
        "channelLong": make_token(600, sub="ann", channel="private/ann"),
        "server": make_token(sub="ann", channels=["news/ann"]),
    }
    environment = {
        "URL_WEBSOCKET": daemon.websocket,
        "URL_API": daemon.api,
        "API_KEY": API_KEY,
        "TOKENS": json.dumps(tokens),
        "MODULES": os.environ.get("SDK_MODULES", str(_MODULES)),
    }
    return subprocess.Popen(
        ["node", str(_SCENARIOS), scenario, format],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(node: subprocess.Popen[str], line: str = "") -> None:
    """Let a scenario go on to its end, and check that it succeeds."""
    try:
        said, _ = node.communicate(line, timeout=_PATIENCE)
    finally:
        node.kill()
    assert node.returncode == 0, said


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scenario", ["conversation", "recovery", "tokens", "server", "batch"])
def test_scenario(tmp_path: Path, scenario: str, format: str) -> None:
    """The SDK does all that pushd supports: see scenarios.mjs."""
    with SdkDaemon(tmp_path) as daemon:
        finish(start(daemon, scenario, format))


@pytest.mark.parametrize("format", FORMATS)
def test_restart(tmp_path: Path, format: str) -> None:
    """With --state, a client recovers over a restart of the daemon."""
    with held_port() as port:
        state = ("--state", str(tmp_path / "state"))
        with SdkDaemon(tmp_path, *state, port=port) as daemon:
            node = start(daemon, "restart", format)
            assert node.stdout is not None
            said = node.stdout.readline()
            assert said == "ready\n", said
        with SdkDaemon(tmp_path, *state, port=port) as daemon:
            daemon.call("publish", channel="kept", data={"after": "restart"})
            finish(node, "\n")
