"""Clients on slow links, over real sockets: what was sent to them, and by them, arrives.

Ten of them at once take a minute, as the time-outs that must not strike are 5, 10 and 35 seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import Barrier
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from tests.live.attacked_daemon import control_url_of
from tests.live.raw_client import RawClient, frame
from tests.support.certificate import make_tls_endpoint
from tests.support.daemon_process import DaemonProcess
from tests.support.frame_heads import CLOSE, PING, PONG, TEXT

VIEWS = """
from pushd.views import accept_websocket

@accept_websocket
async def large(request):
    await request.websocket.send("x" * 900_000)

@accept_websocket
async def count(request):
    async for message in request.websocket:
        request.websocket.send(str(len(message)))

@accept_websocket
async def follow(request):
    await request.websocket.subscribe("news")
    request.websocket.send("subscribed")
    async for _ in request.websocket:
        pass

views = {"/large/": large, "/count/": count, "/follow/": follow}
"""

SIZE = 900_000

# The kernel's buffer of a slow client, in bytes. The server's would take all else.
BUFFER = 8192

# The time between two reads or writes, in seconds.
STEP = 0.1

# Seconds after which a test gives up waiting.
TIMEOUT = 120.0


class SlowClient(RawClient):
    """A client that reads and writes at a given rate, in bytes a second."""

    def __init__(self, url: str, rate: float) -> None:
        super().__init__(url, receive_buffer=BUFFER)
        self.socket.settimeout(TIMEOUT)
        self._step = max(1, int(rate * STEP))

    def _receive(self) -> bool:
        """Read a little; called for more until a frame is whole."""
        sleep(STEP)
        try:
            data = self.socket.recv(self._step)
        except ConnectionError:
            return False
        self._received += data
        return bool(data)

    def read_messages(self, count: int) -> list[int]:
        """Read messages, answering pings; return the lengths of those that came."""
        lengths: list[int] = []
        while len(lengths) < count and (came := self.read_frame()) is not None:
            if came.opcode == TEXT:
                lengths.append(len(came.payload))
            elif came.opcode == PING:
                self.send(frame(PONG, came.payload))
        return lengths

    def write_slowly(self, data: bytes) -> None:
        """Write at the client's rate."""
        for start in range(0, len(data), self._step):
            self.send(data[start : start + self._step])
            sleep(STEP)


def read_large(url: str, rate: float) -> None:
    """A large message and the Close behind it arrive."""
    with SlowClient(url, rate).upgrade("/large/") as client:
        assert isinstance(client, SlowClient)
        assert client.read_messages(1) == [SIZE]
        assert client.read_code() == 1000
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.read_frame() is None


def write_large(url: str, rate: float) -> None:
    """A large message that is sent slowly arrives."""
    with SlowClient(url, rate).upgrade("/count/") as client:
        assert isinstance(client, SlowClient)
        client.write_slowly(frame(TEXT, b"x" * SIZE))
        client.socket.settimeout(TIMEOUT)
        while (answer := client.read_frame()) is not None and answer.opcode == PING:
            client.send(frame(PONG, answer.payload))
        assert answer is not None
        assert answer.payload == str(SIZE).encode()


def drip(url: str) -> float:
    """Take about 4 kB/s until the connection is cut; return the seconds that it was held.

    TCP announces room in steps of up to half the buffer. At 1 kB/s the first can take longer than
    the 5 s within which a peer must have taken some.
    """
    with RawClient(url, receive_buffer=BUFFER).upgrade("/large/") as client:
        start = monotonic()
        # A reset is seen by writing, also if more can be read that came before it.
        while True:
            try:
                client.socket.recv(4 * 1024)
                client.send(frame(PONG))
            except OSError:
                return monotonic() - start
            sleep(1)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """Run a daemon with a plain and an encrypted port, and a control port."""
    (tmp_path / "views.py").write_text(VIEWS)
    plain = "tcp:0:interface=127.0.0.1"
    args = ["--views", "views:views", "--listen", plain, "--listen", make_tls_endpoint(tmp_path)]
    with DaemonProcess([*args, "--control", plain], directory=tmp_path) as daemon:
        yield daemon


def test_slow_links(daemon: DaemonProcess) -> None:
    """All of 900 kB arrive at 20 to 100 kB/s: a last message, one sent up, and a publication.

    A client that takes almost nothing is cut off after a minute, and the log says so.
    """
    urls = [daemon.wait_for(rf"listening on ({kind}://\S+)")[1] for kind in ("http", "https")]
    control = HTTPConnection(urlsplit(control_url_of(daemon)).netloc, timeout=TIMEOUT)
    subscribed = Barrier(len(urls) + 1)

    def follow(url: str, rate: float) -> None:
        with SlowClient(url, rate).upgrade("/follow/") as client:
            assert isinstance(client, SlowClient)
            assert client.read_messages(1) == [len("subscribed")]
            subscribed.wait(TIMEOUT)
            assert client.read_messages(1) == [SIZE]

    stalled = RawClient(urls[0], receive_buffer=BUFFER)
    stalled.send(
        b"GET /topics/news HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    )
    daemon.wait_for("/topics/news opened")
    with stalled, ThreadPoolExecutor(16) as pool:
        drips: Future[float] = pool.submit(drip, urls[0])
        tasks: list[tuple[Callable[[str, float], None], float]] = [
            (read_large, 100_000),
            (read_large, 50_000),
            (write_large, 20_000),
            (follow, 20_000),
        ]
        results = [pool.submit(task, url, rate) for url in urls for task, rate in tasks]
        subscribed.wait(TIMEOUT)
        control.request("POST", "/topics/news", body=b"x" * SIZE)
        assert subscribers_of(control) == 3
        for result in results:
            result.result()
        assert 55 < drips.result() < 75
        # By us, or by the kernel, if that had taken it all.
        stall = r"/topics/news closed (1013 after 6\S+ s by us: client reads too slowly|"
        stall += r"1006 after 6\S+ s by peer: the client disconnected), \d{6} bytes were not taken"
        daemon.wait_for(stall)
    control.close()
    closed = r"/large/ closed 1006 after 6\d\S* s by us: the view closed \(1000\), \d{6} bytes were"
    daemon.wait_for(closed)
    assert len([line for line in daemon.log if "/large/ closed 1000 after" in line]) == 4


def subscribers_of(control: HTTPConnection) -> int:
    """Return the number of subscribers that a publication had."""
    answer = control.getresponse()
    assert answer.status == 200
    found: int = json.load(answer)["subscribers"]
    return found
