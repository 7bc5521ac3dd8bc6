"""The end of a conversation over real sockets: it loses nothing, and leaves nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, create_connection, socket
from time import monotonic, sleep
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.live.raw_client import RawClient, frame, trusting
from tests.live.tls_tunnel import wrap_in_tls
from tests.support.certificate import make_tls_endpoint
from tests.support.daemon_process import DaemonProcess
from tests.support.frame_heads import CLOSE, TEXT

PATIENCE = 30.0

REACTOR = ("modern", "classic")
THREADS = ("blocking", "wsgi", "django")
KINDS = (*REACTOR, *THREADS)

ARGS = ["--views", "tests.live.ending_views:views", "--wsgi", "tests.live.ending_views:application"]

_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_numbers = count()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run the views, with and without TLS; no traceback may stand in the log."""
    folder = tmp_path_factory.mktemp("endings")
    ports = ["--listen", "tcp:0:interface=127.0.0.1", "--listen", make_tls_endpoint(folder)]
    args = [*ARGS, *ports, "--view-grace", "2", "--max-stragglers", "0"]
    with DaemonProcess(args, directory=folder) as daemon:
        yield daemon
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


class Room:
    """A room of the views of one kind."""

    def __init__(self, daemon: DaemonProcess, kind: str, scheme: str = "ws") -> None:
        self.daemon = daemon
        self.kind = kind
        self.name = f"room{next(_numbers)}"
        http = scheme.replace("ws", "http")
        found = daemon.wait_for(rf"(?<!port )listening on ({http}://\S+)")
        self.url = re.sub("^http", "ws", found[1])

    @contextmanager
    def enter(self, shape: str) -> Iterator[ClientConnection]:
        """Open a WebSocket to a view."""
        address = urlsplit(self.url)
        raw = create_connection((address.hostname, address.port), PATIENCE)
        if address.scheme == "wss":
            raw = wrap_in_tls(raw, trusting(), "localhost")
        url = f"ws://{address.netloc}/{self.kind}/{shape}/{self.name}/"
        # With a bounded queue this client would not see the end behind messages it does not read.
        with connect(url, sock=raw, open_timeout=PATIENCE, max_queue=None) as client:
            yield client

    @contextmanager
    def join(self, shape: str) -> Iterator[ClientConnection]:
        """Open a WebSocket, and wait until its view has begun."""
        with self.enter(shape) as client:
            assert client.recv(PATIENCE) == "joined"
            yield client

    def visit(self, shape: str, code: int = 1000, reason: str = "") -> None:
        """Open a WebSocket, wait until its view has begun, and close."""
        with self.join(shape) as client:
            client.close(code, reason)

    def report(self) -> tuple[list[str], int, int]:
        """Return what was saved, how many sockets are in the room, and how many views run."""
        url = f"{self.daemon.url}report/{self.kind}/{self.name}/"
        with urlopen(url, timeout=PATIENCE) as answer:
            saved, sockets, running = json.load(answer)
        return saved, sockets, running

    def wait_for_end(self, patience: float = PATIENCE) -> tuple[list[str], int]:
        """Wait until no view runs; return what was saved, and how many sockets are left."""
        end = monotonic() + patience
        while (found := self.report())[2]:
            assert monotonic() < end, found
            sleep(0.02)
        return found[0], found[1]


@pytest.fixture(params=[(kind, scheme) for kind in KINDS for scheme in ("ws", "wss")], ids="-".join)
def room(request: pytest.FixtureRequest, shared: DaemonProcess) -> Room:
    """Make a room for views of each kind, with and without TLS."""
    return Room(shared, *request.param)


def test_ten_messages(room: Room) -> None:
    """Ten messages and a Close at once, twenty times: each is saved, and clean-up runs."""
    for _ in range(20):
        with room.join("converse") as client:
            for number in range(10):
                client.send(str(number))
    saved, sockets = room.wait_for_end()
    assert sockets == 0
    assert sorted(saved) == sorted(str(number) for number in range(10) for _ in range(20))


def test_reset_while_reading_is_paused(room: Room) -> None:
    """Messages beyond the inbox are read, too, if an answer meets a client that has closed."""
    messages = [f"{number:<600}" for number in range(200)]
    data = b"".join(frame(TEXT, message.encode()) for message in messages)
    with RawClient(room.url.replace("ws", "http", 1)) as client:
        client.upgrade(f"/{room.kind}/answer/{room.name}/")
        joined = client.read_frame()
        assert joined is not None and joined.payload == b"joined"
        client.send(data + frame(CLOSE, (4001).to_bytes(2, "big") + b"done"))
    saved, _ = room.wait_for_end()
    assert saved == [*messages, "4001"]


def test_last_words(room: Room) -> None:
    """The last words of a client that leaves at once reach another, ten times out of ten."""
    with room.join("converse") as other:
        for number in range(10):
            with room.join("converse") as client:
                client.send(f"last {number}")
            assert other.recv(PATIENCE) == f"last {number}"
            assert other.recv(PATIENCE) == "left"


def test_socket_of_one_that_left(room: Room) -> None:
    """Messages to the WebSocket of a client that has left do nothing, for any other."""
    with room.join("stay") as staying:
        for number in range(12):
            room.visit("stay")
            staying.send(str(number))
            assert staying.recv(PATIENCE) == str(number)
    assert room.wait_for_end()[1] == 13


def test_clean_up(room: Room) -> None:
    """Clean-up around ``wait`` runs; in ``pushd.django`` and on the reactor in ``except``, too."""
    room.visit("clean-up")
    expected = ["finally"] if room.kind in ("blocking", "wsgi") else ["except", "finally"]
    assert room.wait_for_end() == (expected, 0)


def test_how_it_ended(room: Room) -> None:
    """A view learns the code and the reason of the close."""
    room.visit("learn", 4001, "enough")
    assert room.wait_for_end() == (["4001 enough"], 0)


def test_data(room: Room) -> None:
    """Views send bytes of each type; what is not UTF-8 is a ValueError, and harms nothing."""
    with room.enter("data") as client:
        received = [client.recv(PATIENCE) for _ in range(4)]
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(PATIENCE)
    assert received == ["abc", "bc", b"\xff", "still here"]
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "why")
    assert room.wait_for_end() == (["ValueError"] * 3, 0)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("kind", THREADS)
def test_helper_thread(shared: DaemonProcess, kind: str, scheme: str) -> None:
    """A helper thread in a loop around ``wait`` ends."""
    room = Room(shared, kind, scheme)
    room.visit("helper")
    assert room.wait_for_end() == (["helper ended"], 0)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("shape", ["tick", "tick-in-helper"])
@pytest.mark.parametrize("kind", REACTOR)
def test_timed(shared: DaemonProcess, kind: str, shape: str, scheme: str) -> None:
    """A timed view is cancelled at once when its client leaves, not after its grace."""
    room = Room(shared, kind, scheme)
    with room.enter(shape) as client:
        assert [client.recv(PATIENCE) for _ in range(3)] == ["tick"] * 3
    room.wait_for_end()
    assert not [line for line in shared.log if f"{kind} is still running" in line], shared.log


def test_grace(tmp_path: Path) -> None:
    """``--view-grace`` is what a view has that waits for something else."""
    with DaemonProcess([*ARGS, "--view-grace", "1"], directory=tmp_path) as daemon:
        for kind in REACTOR:
            room = Room(daemon, kind)
            room.visit("outlive")
            room.wait_for_end()
            daemon.wait_for(f"{kind} is still running 1 s after the end of its conversation")


def test_ignores_everything(tmp_path: Path) -> None:
    """Loops that ignore every error leave the reactor free, and in threads they do not spin."""
    with DaemonProcess([*ARGS, "--view-grace", "1"], directory=tmp_path) as daemon:
        rooms = [Room(daemon, kind) for kind in REACTOR]
        for room in rooms:
            Room(daemon, room.kind).visit("ignore")
            room.visit("ignore-exceptions")
        in_threads = [Room(daemon, kind) for kind in THREADS]
        for room in in_threads:
            room.visit("ignore")
        for room in rooms:
            room.wait_for_end()
        for room in in_threads:
            assert room.wait_for_end() == (["slow"], 0)
        began = monotonic()
        rooms[0].report()
        assert monotonic() - began < 1
        assert daemon.stop() == 0


def test_close_on_a_slow_link(tmp_path: Path) -> None:
    """A view that awaits ``close`` while its client reads slowly has its grace after that."""
    with DaemonProcess([*ARGS, "--view-grace", "1"], directory=tmp_path) as daemon:
        rooms = [Room(daemon, kind) for kind in KINDS]
        clients = []
        address = urlsplit(rooms[0].url)
        for room in rooms:
            client = socket()
            client.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            client.connect((address.hostname, address.port))
            path = f"/{room.kind}/close-slowly/{room.name}/"
            client.sendall(_HANDSHAKE.format(path).encode())
            clients.append(client)
        sleep(1.5)
        assert [room.report()[0] for room in rooms] == [[]] * len(rooms)
        for client in clients:
            tail = b""
            while b"\x0f\xa1" not in tail:
                received = client.recv(1 << 16)
                assert received
                tail = (tail + received)[-16:]
            client.sendall(b"\x88\x82\0\0\0\0\x0f\xa1")
        for room in rooms:
            assert room.wait_for_end() == (["closed"], 0)
        for client in clients:
            client.close()
        assert not [line for line in daemon.log if "still running" in line], daemon.log


def test_no_stragglers(tmp_path: Path) -> None:
    """The log tells that a view keeps its place, and why the next handshake gets 503."""
    args = [*ARGS, "--threads", "1", "--max-stragglers", "0", "--view-grace", "0"]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        room = Room(daemon, "blocking")
        room.visit("sleep")
        daemon.wait_for("it and further ones keep theirs until they end")
        with pytest.raises(InvalidStatus), room.join("converse"):
            pass
        daemon.wait_for("1 of them by views whose conversation is over")


@pytest.mark.parametrize("kind", THREADS)
def test_stragglers(tmp_path: Path, kind: str) -> None:
    """64 views whose threads do not end give up their places, and the log names them once."""
    args = [*ARGS, "--control", "tcp:0:interface=127.0.0.1", "--threads", "64", "--view-grace", "1"]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        room = Room(daemon, kind)
        for _ in range(64):
            room.visit("sleep")
        daemon.wait_for(r"is still running in its thread 1 s after the end")
        end = monotonic() + PATIENCE
        while True:
            try:
                with room.join("converse") as client:
                    client.send("on")
                    assert client.recv(PATIENCE) == "on"
                break
            except InvalidStatus:
                assert monotonic() < end
                sleep(0.1)
        control = daemon.wait_for(r"control port listening on (\S+)")[1]
        while True:
            with urlopen(f"{control}metrics", timeout=PATIENCE) as answer:
                metrics = answer.read().decode()
            if "\npushd_threads_stragglers 64.0\n" in metrics:
                break
            assert monotonic() < end, metrics
            sleep(0.1)
        assert len([line for line in daemon.log if "is still running in its thread" in line]) == 1
        assert not [line for line in daemon.log if "Traceback" in line], daemon.log
