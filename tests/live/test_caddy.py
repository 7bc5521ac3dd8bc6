"""pushd behind the system's Caddy, with the sample in deploy/."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.live.test_nginx import CLIENT, TIMEOUT, VIEWS, Site
from tests.support.daemon_process import DaemonProcess
from tests.support.held_port import held_port
from tests.support.peer import certificate_file

SAMPLE = Path(__file__).parents[2] / "deploy/Caddyfile"

# What only the tests need: no port 80, no port for administration, and their own certificate.
FRAME = """{{
	admin off
	auto_https disable_redirects
	http_port {unused}
}}
{site}
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Start both, with the sample's name, port and certificate replaced."""
    caddy = shutil.which("caddy")
    assert caddy is not None, "there is no caddy: apt-get install caddy"
    (tmp_path / "shop.py").write_text(VIEWS)
    args = ["--views", "shop:views", "--control", "tcp:0:interface=127.0.0.1"]
    certificate = tmp_path / "site.pem"
    certificate.write_bytes(certificate_file())
    trust = ssl.create_default_context(cafile=str(certificate))
    with (
        DaemonProcess([*args, "--trusted-proxy", "127.0.0.1"], directory=tmp_path) as daemon,
        held_port() as port,
        held_port() as unused,
    ):
        control = int(daemon.wait_for(r"control port listening on http://127\.0\.0\.1:(\d+)/")[1])
        sample = SAMPLE.read_text()
        for ours, theirs in (
            ("127.0.0.1:8080", daemon.url.split("/")[2]),
            (
                "example.com {\n",
                f"https://localhost:{port} {{\n\tbind 127.0.0.1\n"
                f"\ttls {certificate} {certificate}\n",
            ),
        ):
            assert sample.count(ours) == 1, ours
            sample = sample.replace(ours, theirs)
        (tmp_path / "Caddyfile").write_text(FRAME.format(site=sample, unused=unused))
        process = subprocess.Popen(
            [caddy, "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        )
        try:
            _wait_until_it_listens(port, process)
            yield Site(port, control, trust, daemon)
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + TIMEOUT
    while monotonic() < deadline:
        assert process.poll() is None, "Caddy has ended"
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
            return
        except ConnectionRefusedError:
            sleep(0.05)
    raise AssertionError("Caddy does not listen")


def test_sample(site: Site) -> None:
    """The client is known, its WebSocket and its events arrive, and browsers get HTTP/2."""
    for headers in ({}, {"X-Forwarded-For": "192.0.2.6", "Forwarded": "for=192.0.2.7;proto=http"}):
        with site.ask("GET", "/who/", headers) as answer:
            assert answer().read().decode() == f"{CLIENT} https"

    with site.connect("/who/", f"https://{site.host}") as client:
        client.send("hello")
        assert client.recv(TIMEOUT) == f"{CLIENT} says hello"
        client.close(4000, "enough")
    site.daemon.wait_for(rf"{CLIENT} /who/ closed 4000 after \S+ s by peer: enough; 1 messages")

    with site.ask("GET", "/topics/news", {"Accept": "text/event-stream"}) as answer:
        stream = answer()
        assert stream.readline() == b"event: subscribed\n"
        site.publish("one")
        while (line := stream.readline()) != b"data: one\n":
            assert line.startswith((b"id: ", b"data: {", b"\n")), line

    with site.ask("GET", "/topics/news?wait=0") as answer:
        assert json.load(answer())["publications"] == []
    assert site.negotiated() == "h2"
