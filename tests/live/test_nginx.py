"""pushd behind the system's nginx, with the sample in deploy/."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import NamedTuple

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.live.tls_tunnel import wrap_in_tls
from tests.support.daemon_process import DaemonProcess
from tests.support.peer import certificate_file
from tests.support.proxies import NGINX_FRAME

# Debian installs it where only root's PATH looks.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

SAMPLE = Path(__file__).parents[2] / "deploy/nginx-pushd.conf"

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

# The address that clients connect from; nginx itself connects from another one.
CLIENT = "127.0.0.2"

VIEWS = """
from pushd.views import accept_websocket

@accept_websocket
async def who(request):
    if request.websocket is None:
        return f"{request.peer} {request.scheme}"
    async for message in request.websocket:
        request.websocket.send(f"{request.peer} says {message}")

views = {"/who/": who}
"""


class Site(NamedTuple):
    """A daemon behind nginx."""

    port: int
    control: int
    trust: ssl.SSLContext
    daemon: DaemonProcess

    @property
    def host(self) -> str:
        """Host and port of the public URL."""
        return f"localhost:{self.port}"

    @contextmanager
    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> Iterator[Callable[[], HTTPResponse]]:
        """Send a request; return the connection, to read the response from."""
        connection = HTTPSConnection(
            "localhost", self.port, timeout=TIMEOUT, context=self.trust, source_address=(CLIENT, 0)
        )
        with closing(connection), ExitStack() as answers:
            connection.request(method, path, headers=headers or {})
            yield lambda: answers.enter_context(connection.getresponse())

    def connect(self, path: str, origin: str) -> ClientConnection:
        """Open a WebSocket."""
        raw = socket.create_connection(
            ("127.0.0.1", self.port), TIMEOUT, source_address=(CLIENT, 0)
        )
        headers = {"Origin": origin}
        return connect(
            f"ws://{self.host}{path}",
            sock=wrap_in_tls(raw, self.trust, "localhost"),
            additional_headers=headers,
            open_timeout=TIMEOUT,
        )

    def negotiated(self) -> str | None:
        """Return the protocol that a browser would get, which offers HTTP/2 and HTTP/1.1."""
        self.trust.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as raw,
            self.trust.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            return secure.selected_alpn_protocol()

    def publish(self, data: str) -> None:
        """Publish to the topic."""
        connection = HTTPConnection("127.0.0.1", self.control, timeout=TIMEOUT)
        connection.request("POST", "/topics/news", body=data)
        assert connection.getresponse().status == 200
        connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Start both, with the sample's names, ports and certificate replaced."""
    assert NGINX is not None, "there is no nginx: apt-get install nginx"
    (tmp_path / "shop.py").write_text(VIEWS)
    args = ["--views", "shop:views", "--control", "tcp:0:interface=127.0.0.1"]
    with DaemonProcess([*args, "--trusted-proxy", "127.0.0.1"], directory=tmp_path) as daemon:
        control = int(daemon.wait_for(r"control port listening on http://127\.0\.0\.1:(\d+)/")[1])
        certificate = tmp_path / "site.pem"
        certificate.write_bytes(certificate_file())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            sample = SAMPLE.read_text()
            for ours, theirs in (
                ("127.0.0.1:8080", daemon.url.split("/")[2]),
                ("/var/log/nginx/access.log", str(tmp_path / "access.log")),
                ("listen 443", f"listen 127.0.0.1:{port}"),
                ("server_name example.com", "server_name localhost"),
                ("/etc/letsencrypt/live/example.com/fullchain.pem", str(certificate)),
                ("/etc/letsencrypt/live/example.com/privkey.pem", str(certificate)),
            ):
                assert sample.count(ours) == 1, ours
                sample = sample.replace(ours, theirs)
            (tmp_path / "pushd.conf").write_text(sample)
            content = f"include {tmp_path}/pushd.conf;"
            frame = NGINX_FRAME.format(folder=tmp_path, user=getpass.getuser(), content=content)
            (tmp_path / "nginx.conf").write_text(frame)
            nginx = subprocess.Popen(
                [NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"],
                # nginx inherits a listening socket, so that no other process can take the port.
                env={**os.environ, "NGINX": f"{listener.fileno()};"},
                pass_fds=[listener.fileno()],
            )
        trust = ssl.create_default_context(cafile=str(certificate))
        try:
            yield Site(port, control, trust, daemon)
        finally:
            nginx.terminate()
            nginx.wait(TIMEOUT)


def test_log(site: Site, tmp_path: Path) -> None:
    """The log of nginx has paths without tokens."""
    # The single worker has logged the first request before it reads the second.
    for _ in range(2):
        with site.ask("GET", "/topics/news?wait=0&token=secret") as answer:
            answer().read()
    log = (tmp_path / "access.log").read_text()
    assert '"GET /topics/news" 200' in log
    assert "secret" not in log


def test_page(site: Site) -> None:
    """The peer is the client, the scheme https, whatever headers it sends; browsers get HTTP/2."""
    for headers in ({}, {"X-Forwarded-For": "192.0.2.6", "Forwarded": "for=192.0.2.7;proto=http"}):
        with site.ask("GET", "/who/", headers) as answer:
            assert answer().read().decode() == f"{CLIENT} https"
    site.daemon.wait_for(rf"{CLIENT} GET /who/ 200 ")
    # Over HTTP/1.1 six event streams would take all connections of a browser.
    assert site.negotiated() == "h2"


def test_websocket(site: Site) -> None:
    """A page of the site may open a WebSocket; the view sees the client, and the log its end."""
    with site.connect("/who/", f"https://{site.host}") as client:
        client.send("hello")
        assert client.recv(TIMEOUT) == f"{CLIENT} says hello"
        client.close(4000, "enough")
    site.daemon.wait_for(rf"{CLIENT} /who/ closed 4000 after \S+ s by peer: enough; 1 messages")


def test_other_origin(site: Site) -> None:
    """A page of another site, or of this one without TLS, may not."""
    for origin in ("https://example.com", f"http://{site.host}"):
        with pytest.raises(InvalidStatus) as refused:
            site.connect("/who/", origin)
        assert refused.value.response.status_code == 403


def test_events(site: Site) -> None:
    """Each event arrives when it is published, not when a buffer is full."""
    with site.ask("GET", "/topics/news", {"Accept": "text/event-stream"}) as answer:
        stream = answer()
        assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.readline() == b"event: subscribed\n"
        for text in ("one", "two"):
            site.publish(text)
            while (line := stream.readline()) != f"data: {text}\n".encode():
                assert line.startswith((b"id: ", b"data: {", b"\n")), line
    site.daemon.wait_for(rf"{CLIENT} /topics/news closed 1006 after \S+ s by peer:")


def test_long_poll(site: Site) -> None:
    """A long poll waits, and is answered when something is published."""
    # A topic with a history has an id to resume from, in whichever order the next two arrive.
    site.publish("before")
    with site.ask("GET", "/topics/news?wait=0") as answer:
        start = json.load(answer())["id"]
    with site.ask("GET", f"/topics/news?wait=30&after={start}") as answer:
        site.publish("hello")
        assert [one["data"] for one in json.load(answer())["publications"]] == ["hello"]


def test_too_large(site: Site) -> None:
    """A body that is too large is refused by nginx."""
    with site.ask("POST", "/who/", {"Content-Length": str((1 << 20) + 1)}) as answer:
        assert answer().status == 413
