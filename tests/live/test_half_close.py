"""Clients that close their side of the connection and await the answer, over real sockets."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from OpenSSL.SSL import TLS_CLIENT_METHOD, Connection, Context, ZeroReturnError

from tests.live.attacked_daemon import control_url_of, wait_until_idle
from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, handshake, request
from tests.support.certificate import make_tls_endpoint
from tests.support.daemon_process import DaemonProcess

EXAMPLE = Path(__file__).parents[2] / "examples/django"

VIEWS = """
import time
from twisted.internet.task import deferLater

async def coroutine(request):
    await deferLater(request.clock, 0.1)
    return "coroutine"

def deferred(request):
    return deferLater(request.clock, 0.1, lambda: "deferred")

def thread(request):
    time.sleep(0.1)
    return "thread"

async def body(request):
    return request.body

views = {
    "/coroutine/": coroutine, "/deferred/": deferred, "/thread/": thread, "/body/": body,
}
"""

APPLICATION = """
import time

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    def parts():
        for number in range(3):
            time.sleep(0.1)
            yield b"part"
    return parts()
"""


def head(method: str, path: str, *lines: str) -> bytes:
    """Make the head of a request."""
    return request("localhost", path, *lines, method=method)


# What a client sends before it closes its side, and the statuses of the answers to it.
CASES = {
    "file": (head("GET", "/pushd.css"), [200]),
    "coroutine": (head("GET", "/coroutine/"), [200]),
    "deferred": (head("GET", "/deferred/"), [200]),
    "thread": (head("GET", "/thread/"), [200]),
    "body": (head("POST", "/body/", "Content-Length: 3") + b"abc", [200]),
    "long poll": (head("GET", "/topics/t?wait=60"), [200]),
    "events": (head("GET", "/topics/t", "Accept: text/event-stream"), [200]),
    "pipelined": (
        head("GET", "/coroutine/") + head("GET", "/thread/") + head("GET", "/nowhere"),
        [200, 200, 404],
    ),
    "malformed": (b"nonsense\r\n\r\n", [400]),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", [400]),
    "nowhere": (head("GET", "/nowhere"), [404]),
    "handshake": (handshake("localhost", "/coroutine/"), [400]),
    "large": (head("POST", "/body/", "Content-Length: 9999999") + b"abc", [413]),
    "headers": (head("GET", "/", f"X: {'x' * 20_000}"), [431]),
    "half a head": (b"GET / HTTP/1.1\r\nHost: a", [400]),
    "half a body": (head("POST", "/body/", "Content-Length: 4") + b"abc", [400]),
    "nothing": (b"", []),
}


def statuses(received: bytes) -> list[int]:
    """Return the statuses of answers."""
    return [int(one[:3]) for one in received.split(b"HTTP/1.1 ")[1:]]


def send_and_finish(connection: socket.socket, data: bytes) -> bytes:
    """Send data and close our side; return what comes until the server has closed."""
    with connection:
        connection.settimeout(TIMEOUT)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def connect(url: str) -> socket.socket:
    """Open a TCP connection."""
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), TIMEOUT)


def over_tcp(url: str, data: bytes) -> bytes:
    """Send data over TCP, and close our side."""
    return send_and_finish(connect(url), data)


def over_unix(path: str, data: bytes) -> bytes:
    """Send data over a Unix socket, and close our side."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return send_and_finish(connection, data)


def over_proxy(url: str, data: bytes) -> bytes:
    """Send data as a proxy does that names its client, and close our side."""
    return over_tcp(url, b"PROXY TCP4 192.0.2.1 127.0.0.1 5000 80\r\n" + data)


def over_tls(url: str, data: bytes, *, notify: bool = True, finish: bool = True) -> bytes:
    """Send data over TLS, and close our side of TLS, of TCP below it, or of both.

    Python's ``ssl`` cannot do so.
    """
    received = b""
    with connect(url) as plain:
        plain.settimeout(None)
        seconds = struct.pack("ll", int(TIMEOUT), 0)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        connection = Connection(Context(TLS_CLIENT_METHOD), plain)
        connection.set_connect_state()
        connection.do_handshake()
        if data:
            connection.sendall(data)
        if notify:
            connection.shutdown()
        if finish:
            plain.shutdown(socket.SHUT_WR)
        while True:
            try:
                received += connection.recv(1 << 16)
            except ZeroReturnError:
                return received


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon with a port of each kind."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "half_views.py").write_text(VIEWS)
    args = ["--views", "half_views:views", "--control", "tcp:0:interface=127.0.0.1"]
    for endpoint in (
        "tcp:0:interface=127.0.0.1",
        make_tls_endpoint(folder),
        f"unix:{folder}/socket",
        "haproxy:tcp:0:interface=127.0.0.1",
    ):
        args += ["--listen", endpoint]
    environment = {"PYTHONPATH": str(folder)}
    with DaemonProcess(args, directory=folder, environment=environment) as daemon:
        yield daemon
    assert daemon.stop() == 0
    assert not [line for line in daemon.log if "Traceback" in line or "Unhandled" in line]


@pytest.fixture(scope="module")
def urls(daemon: DaemonProcess) -> list[str]:
    """Return the URLs of its TCP ports, in the order of their options."""
    daemon.wait_for("control port listening")
    found = [re.search(r"(?<!port )listening on (https?://\S+)", line) for line in daemon.log]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("name", CASES)
def test_every_answer(urls: list[str], daemon: DaemonProcess, name: str) -> None:
    """Every answer arrives, however often, over every kind of port."""
    data, expected = CASES[name]
    plain, tls, proxy = urls
    for _ in range(3):
        for received in (
            over_tcp(plain, data),
            over_unix(socket_of(daemon), data),
            over_proxy(proxy, data),
            over_tls(tls, data),
            over_tls(tls, data, finish=False),
            over_tls(tls, data, notify=False),
        ):
            assert statuses(received) == expected, received


def socket_of(daemon: DaemonProcess) -> str:
    """Return the path of its Unix socket."""
    return daemon.wait_for(r"listening on unix:(\S+)")[1]


def test_publish(daemon: DaemonProcess) -> None:
    """The answer to a publication arrives, at the control port."""
    publication = head("POST", "/topics/p", "Content-Length: 3") + b"abc"
    for number in range(20):
        received = over_tcp(control_url_of(daemon), publication)
        assert statuses(received) == [200]
        answer = json.loads(received.partition(b"\r\n\r\n")[2])
        assert answer["id"].endswith(f":{number + 1}"), answer


def test_nothing_left(urls: list[str], daemon: DaemonProcess) -> None:
    """Afterwards the daemon has as few descriptors as before, and no connection."""
    status = ProcessStatus(daemon.pid)
    before = wait_until_idle(status)
    for data, _ in CASES.values():
        over_tcp(urls[0], data)
        over_tls(urls[1], data)
    assert wait_until_idle(status) <= before
    with urlopen(f"{control_url_of(daemon)}connections", timeout=TIMEOUT) as answer:
        assert json.load(answer)["connections"] == []


def test_application(tmp_path: Path) -> None:
    """The pages of a WSGI application arrive whole."""
    (tmp_path / "half_application.py").write_text(APPLICATION)
    args = ["--wsgi", "half_application:application"]
    environment = {"PYTHONPATH": str(tmp_path)}
    with DaemonProcess(args, directory=tmp_path, environment=environment) as daemon:
        for _ in range(3):
            received = over_tcp(daemon.url, head("GET", "/"))
            assert statuses(received) == [200]
            assert received.endswith(b"0\r\n\r\n")
            assert received.count(b"part") == 3


def test_django() -> None:
    """So do those of Django."""
    args = ["--wsgi", "mysite.wsgi:application"]
    with DaemonProcess(args, directory=EXAMPLE) as daemon:
        for path, status in (("/", 200), ("/nowhere/", 404)):
            for _ in range(3):
                assert statuses(over_tcp(daemon.url, head("GET", path))) == [status]
