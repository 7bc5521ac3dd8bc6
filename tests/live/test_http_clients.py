"""HTTP as clients, load balancers and browsers speak it: uploads, HTTP/2 offers, disconnects."""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.daemon_process import DaemonProcess
from tests.support.proxies import run_proxy

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

# Answers with the path, or with a body that does not end, and logs when that is closed.
APPLICATION = """
import sys


class Endless:
    def __iter__(self):
        return self

    def __next__(self):
        return b"x" * 65536

    def close(self):
        print("the body is closed", flush=True)


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/endless/":
        return Endless()
    return [environ["PATH_INFO"].encode()]
"""


def connect(daemon: DaemonProcess) -> HTTPConnection:
    """Return a connection to a daemon, to be opened."""
    return HTTPConnection(urlsplit(daemon.url).netloc, timeout=TIMEOUT)


def exchange(daemon: DaemonProcess, data: bytes) -> bytes:
    """Send bytes, and return all that the daemon answers until it closes."""
    address = urlsplit(daemon.url)
    with socket.create_connection((address.hostname, address.port), TIMEOUT) as client:
        client.sendall(data)
        received = b""
        while piece := client.recv(65536):
            received += piece
    return received


def test_too_large_an_upload(tmp_path: Path) -> None:
    """A client that reads only once all of a large body is sent gets the 413, and no reset."""
    with DaemonProcess(["--max-message", "1MiB"], directory=tmp_path) as daemon:
        body = b"x" * (8 << 20)
        pieces = [body[: 1 << 16]] * 128
        for content in (body, iter(pieces)):
            connection = connect(daemon)
            connection.request("POST", "/topics/news", content)
            answer = connection.getresponse()
            assert (answer.status, b"1048576" in answer.read()) == (413, True)
            connection.close()


def test_http_2(tmp_path: Path) -> None:
    """An offer of HTTP/2 is answered in HTTP/1.1; HTTP/2 without an offer is refused at once."""
    with DaemonProcess(directory=tmp_path) as daemon:
        offer = {
            "Connection": "Upgrade, HTTP2-Settings",
            "Upgrade": "h2c",
            "HTTP2-Settings": "AAMA",
        }
        connection = connect(daemon)
        for method, body, status in (("GET", None, 200), ("POST", b"x", 405)):
            connection.request(method, "/", body, offer)
            answer = connection.getresponse()
            assert (answer.version, answer.status) == (11, status)
            assert answer.getheader("Upgrade") is None
            answer.read()
        connection.close()
        received = exchange(daemon, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert received.startswith(b"HTTP/1.1 400 ")


def test_application_disconnect(tmp_path: Path) -> None:
    """A client that leaves in the middle of an application's answer frees its only thread."""
    (tmp_path / "site_app.py").write_text(APPLICATION)
    args = ("--wsgi", "site_app:application", "--wsgi-threads", "1")
    with DaemonProcess(args, directory=tmp_path) as daemon:
        for _ in range(2):
            connection = connect(daemon)
            connection.request("GET", "/endless/")
            assert connection.getresponse().read(100_000) == b"x" * 100_000
            connection.close()
            daemon.wait_for("the body is closed")
            connection = connect(daemon)
            connection.request("GET", "/next/")
            assert connection.getresponse().read() == b"/next/"
            connection.close()
    assert not [line for line in daemon.log if "Traceback" in line]


def test_compressing_proxy(tmp_path: Path) -> None:
    """A proxy that compresses passes events on as they are, and at once."""
    compression = "\n    compression algo gzip\n    compression type text/event-stream text/html"
    with (
        DaemonProcess(["--control", "tcp:0:interface=127.0.0.1"], directory=tmp_path) as daemon,
        run_proxy("haproxy", urlsplit(daemon.url).netloc, tmp_path, compression) as port,
    ):
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        accepted = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
        connection.request("GET", "/", headers=accepted)
        page = connection.getresponse()
        assert page.getheader("Content-Encoding") == "gzip"
        page.read()
        connection.request("GET", "/topics/news", headers=accepted)
        stream = connection.getresponse()
        assert stream.getheader("Content-Encoding") is None
        assert stream.getheader("Cache-Control") == "no-cache, no-transform"
        assert stream.readline() == b"event: subscribed\n"
        control = daemon.wait_for(r"control port listening on http://\S+:(\d+)")[1]
        publisher = HTTPConnection("127.0.0.1", int(control), timeout=TIMEOUT)
        publisher.request("POST", "/topics/news", b"at once")
        assert publisher.getresponse().status == 200
        publisher.close()
        while (line := stream.readline()) != b"data: at once\n":
            assert line, "the stream has ended"
        connection.close()
