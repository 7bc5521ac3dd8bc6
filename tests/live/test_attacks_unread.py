"""Attacks by clients that do not read, or do not answer: measured as in test_attacks.py."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

from pushd.testing import Daemon
from tests.live.attacked_daemon import (
    MIB,
    UNLIMITED,
    assert_cut,
    assert_never_read,
    control_url_of,
    measured,
    run_daemon,
    url_of,
)
from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, Frame, RawClient, frame, handshake, request
from tests.support.daemon_process import DaemonProcess
from tests.support.frame_heads import BINARY, PING, PONG, TEXT, frame_head

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon with default limits."""
    with run_daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def unlimited_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon without a rate limit, so that attacks reach its other limits."""
    with run_daemon(*UNLIMITED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def url(daemon: DaemonProcess) -> str:
    """Return the URL of the daemon with default limits."""
    return url_of(daemon)


def test_unread_pongs(unlimited_daemon: DaemonProcess) -> None:
    """Pongs to a client that does not read are limited; then the client is cut off."""
    with measured(unlimited_daemon) as cost:
        client = RawClient(url_of(unlimited_daemon), receive_buffer=4096).upgrade("/echo/")
        with client:
            client.send_until_refused(frame(PING, bytes(125)) * 1000, 100)
            assert_never_read(unlimited_daemon, client, "/echo/")
    cost.assert_limited(cpu=6)


def test_unread_echoes(unlimited_daemon: DaemonProcess) -> None:
    """Echoes to a client that does not read are limited; then the client is cut off."""
    with measured(unlimited_daemon) as cost:
        client = RawClient(url_of(unlimited_daemon), receive_buffer=4096).upgrade("/echo/")
        with client:
            client.send_until_refused(frame(BINARY, bytes(1 << 16)), 1000)
            assert_never_read(unlimited_daemon, client, "/echo/")
    cost.assert_limited(memory=12 * MIB, cpu=6)


def test_unread_messages(unlimited_daemon: DaemonProcess) -> None:
    """Messages that a view does not read stay with the client that sends them."""
    for message in (frame(BINARY, bytes(1 << 16)), frame(TEXT, b"x")):
        messages = message * (MIB // len(message))
        with measured(unlimited_daemon) as cost:
            with RawClient(url_of(unlimited_daemon)).upgrade("/asleep/") as client:
                # The kernel's buffers hold some of them.
                sent = client.send_until_refused(messages, 64, seconds=2)
            with RawClient(url_of(unlimited_daemon)) as another:
                assert another.request("/wake/").body == b"awake"
            assert sent < 32 * MIB
        cost.assert_limited()


def test_unread_emoji(unlimited_daemon: DaemonProcess) -> None:
    """Unread text takes no more memory than its bytes on the wire, whatever its characters."""
    message = frame(TEXT, "😀".encode() * (MIB // 4))
    with measured(unlimited_daemon) as cost:
        with ExitStack() as stack:
            for _ in range(10):
                client = RawClient(url_of(unlimited_daemon)).upgrade("/asleep/")
                stack.enter_context(client).send_until_refused(message, 32, seconds=0.5)
        with RawClient(url_of(unlimited_daemon)) as another:
            assert another.request("/wake/").body == b"awake"
    # In the inbox, and as it arrives.
    cost.assert_limited(memory=10 * 3 * MIB)


def read_buffers(daemon: DaemonProcess) -> dict[str, float]:
    """Return the metrics of the buffers, once the daemon has closed more than 100 connections."""
    deadline = monotonic() + TIMEOUT
    while True:
        with RawClient(control_url_of(daemon)) as operator:
            lines = operator.request("/metrics").body.decode().splitlines()
        parts = [line.partition("pushd_buffered_")[::2] for line in lines]
        values = {
            name: float(value)
            for name, value in (rest.split(" ") for start, rest in parts if rest and not start)
        }
        if values["closed_total"] > 100 or monotonic() > deadline:
            return values
        sleep(0.1)


def _send_message(client: RawClient) -> None:
    client.upgrade("/echo/").send(frame_head(BINARY, MIB, fin=True, rsv=0) + bytes(4))
    client.send_until_refused(bytes(MIB - 1))


def _send_body(client: RawClient) -> None:
    client.send(request(client.host, "/upload/", f"Content-Length: {MIB}", method="POST"))
    client.send_until_refused(bytes(MIB - 1))


def _fill_inbox(client: RawClient) -> None:
    client.upgrade("/asleep/").send_until_refused(frame(BINARY, bytes(1 << 16)) * 16, seconds=1)


def _read_nothing(client: RawClient) -> None:
    client.upgrade("/flood/")


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        (_send_message, "message"),
        (_send_body, "request"),
        (_fill_inbox, "inbox"),
        (_read_nothing, "send"),
    ],
)
def test_all_buffers(attack: Callable[[RawClient], None], kind: str) -> None:
    """--max-memory bounds the buffers of all connections together; those beyond are closed."""
    with run_daemon(*UNLIMITED, *CONTROL, "--max-memory", "32MiB") as daemon:
        daemon.wait_for(r"memory limit for all buffers is 32 MiB")
        with measured(daemon) as cost, ExitStack() as stack:
            for _ in range(200):
                client = RawClient(url_of(daemon), receive_buffer=4096)
                attack(stack.enter_context(client))
            used = read_buffers(daemon)
            with RawClient(url_of(daemon)) as another:
                assert another.request("/wake/").body == b"awake"
        # The buffers, and what was freed of them between objects that stayed.
        cost.assert_limited(memory=2 * 32 * MIB, cpu=8)
        assert 16 * MIB < used[f'bytes{{kind="{kind}"}}'] < 33 * MIB
        assert used["closed_total"] > 100
        daemon.wait_for(r"buffers took \d+ bytes, more than the 33554432 of --max-memory")
        with RawClient(url_of(daemon)) as client:
            client.upgrade("/echo/").send(frame(TEXT, b"still"))
            assert client.read_frame() == Frame(TEXT, b"still")


@pytest.mark.parametrize("transport", ["websocket", "event stream", "long poll"])
def test_unread_publications(transport: str) -> None:
    """--max-memory also bounds what subscribers do not read of large publications."""
    options = ("--max-memory", "32MiB", "--max-connections", "1000")
    with run_daemon(*UNLIMITED, *CONTROL, *options) as daemon, ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(RawClient(url_of(daemon), receive_buffer=4096))
            if transport == "websocket":
                client.upgrade("/topics/t")
            else:
                accept = "text/event-stream" if transport == "event stream" else "*/*"
                client.send(request(client.host, "/topics/t", f"Accept: {accept}"))
        deadline = monotonic() + TIMEOUT
        while subscribers_of(daemon) < 300 and monotonic() < deadline:
            sleep(0.05)
        with measured(daemon) as cost:
            for _ in range(8):
                with RawClient(control_url_of(daemon)) as publisher:
                    length = f"Content-Length: {MIB - 1}"
                    publisher.send(request(publisher.host, "/topics/t", length, method="POST"))
                    publisher.send(b"x" * (MIB - 1))
                    assert publisher.read_answer().status == 200
        # The buffers, the history, and what was freed of them between objects that stayed.
        cost.assert_limited(memory=3 * 32 * MIB, cpu=8)


def subscribers_of(daemon: DaemonProcess) -> int:
    """Return the number of subscribers of a topic."""
    with RawClient(control_url_of(daemon)) as operator:
        described = json.loads(operator.request("/topics/t").body)
    return sum(described["subscribers"].values())


@pytest.mark.parametrize("path", ["/flood/", "/stream/"])
def test_never_reads(daemon: DaemonProcess, url: str, path: str) -> None:
    """200 MB sent to a client that does not read: closed with 1013, and dropped 5 s later."""
    with measured(daemon) as cost:
        client = RawClient(url, receive_buffer=4096).upgrade(path)
        with client:
            assert_never_read(daemon, client, path)
    cost.assert_limited()


def test_reads_late(daemon: DaemonProcess, url: str) -> None:
    """A client that starts to read within the 5 s receives the close code 1013."""
    with measured(daemon) as cost, RawClient(url, receive_buffer=4096).upgrade("/flood/") as late:
        # When another client is served, the 200 MB have been sent.
        with RawClient(url) as another:
            assert another.request("/hits/").status == 200
        assert late.read_code() == 1013
    cost.assert_limited()


def test_many_never_read(daemon: DaemonProcess, url: str) -> None:
    """A client that does not read costs at most --max-buffered, and is dropped after 5 s."""
    with measured(daemon) as cost, ExitStack() as stack:
        for _ in range(10):
            client = RawClient(url, receive_buffer=4096).upgrade("/stream/")
            stack.enter_context(client)
        sleep(3)
    cost.assert_limited(memory=10 * 4 * MIB, cpu=8)


def test_patient_view(daemon: DaemonProcess, url: str) -> None:
    """A view that awaits its sends is not cut off, and takes no memory."""
    with measured(daemon) as cost:
        client = RawClient(url, receive_buffer=4096).upgrade("/patient/")
        with client:
            sleep(3)
            for _ in range(200):
                assert client.read_frame() == Frame(BINARY, bytes(1 << 16))
    cost.assert_limited()


def test_no_answer_to_close(daemon: DaemonProcess, url: str) -> None:
    """A client that does not answer a Close frame is dropped after 5 s."""
    with RawClient(url).upgrade("/goodbye/") as client:
        assert client.read_code() == 1000
        assert client.read_frame() is None
        assert_cut(daemon, client, "/goodbye/", 1000)


def test_pong_without_ping() -> None:
    """A pong without a ping does not count as an answer (in memory)."""
    daemon = Daemon()
    wire = daemon.open_connection()
    wire.send(handshake("localhost:8080", "/test/"))
    for _ in range(40):
        wire.send(frame(PONG, b"not asked for"))
        daemon.advance(1)
    assert wire.closed
    assert daemon.pending_calls == []


def test_no_answer_to_ping() -> None:
    """A client that does not answer a ping is dropped 10 s after it (in memory)."""
    daemon = Daemon()
    wire = daemon.open_connection()
    wire.send(handshake("localhost:8080", "/test/"))
    daemon.advance(24.9)
    assert wire.received.endswith(b"\r\n\r\n")
    daemon.advance(0.1)
    assert wire.received.partition(b"\r\n\r\n")[2][:1] == b"\x89"
    daemon.advance(9.9)
    before = wire.closed
    daemon.advance(0.1)
    assert (before, wire.closed) == (False, True)
    assert daemon.pending_calls == []


def test_unread_file(tmp_path: Path) -> None:
    """A large file is not loaded for a client that does not read it."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(256 * MIB)
    with run_daemon("--web", str(tmp_path)) as daemon:
        with measured(daemon) as cost, ExitStack() as stack:
            for _ in range(20):
                client = stack.enter_context(RawClient(url_of(daemon), receive_buffer=4096))
                client.send(request(client.host, "/large.bin") * 20)
            sleep(2)
        cost.assert_limited()


def test_unread_file_for_each_connection(tmp_path: Path) -> None:
    """A crowd that does not read its files leaves descriptors: for all, and the control port."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(16 * MIB)
    # As many connections as the daemon allows itself under such a limit.
    descriptors, connections, crowd = 512, 320, 480
    args = ["--web", str(tmp_path), "--max-connections", str(connections)]
    control = ("--control", "tcp:0:interface=127.0.0.1")
    with DaemonProcess([*args, *control], directory=tmp_path) as daemon, ExitStack() as stack:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))
        clients = []
        for _ in range(crowd):
            client = stack.enter_context(RawClient(url_of(daemon), receive_buffer=4096))
            with suppress(ConnectionError):  # It is closed already.
                client.send(request(client.host, "/large.bin"))
            clients.append(client)
        statuses = Counter(status_of(client) for client in clients)
        assert statuses == {b"200": connections, b"503": 64, b"": crowd - connections - 64}
        assert ProcessStatus(daemon.pid).descriptors < descriptors - 90
        with RawClient(control_url_of(daemon)) as operator:
            assert operator.request("/healthz").status == 200
        assert not [line for line in daemon.log if "EMFILE" in line or "failed" in line]


def status_of(client: RawClient) -> bytes:
    """Return the status of a response, or nothing if the connection is closed."""
    try:
        return client.socket.recv(12)[9:]
    except ConnectionError:
        return b""


def test_unread_file_ends(tmp_path: Path) -> None:
    """A client that does not read a file for a minute is dropped (in memory)."""
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(MIB))
    daemon = Daemon(web=tmp_path)
    wire = daemon.open_connection()
    wire._transport.pauseProducing()
    wire.send(request("localhost:8080", "/large.bin"))
    daemon.advance(59)
    before = wire.closed
    daemon.advance(1)
    assert (before, wire.closed) == (False, True)
    assert daemon.pending_calls == []
    assert not [link for link in Path("/proc/self/fd").iterdir() if link.resolve() == file]


def test_unread_answers(daemon: DaemonProcess, url: str) -> None:
    """Responses to a client that does not read them are not collected in memory."""
    requests = request("x", "/large/") * 1000
    with measured(daemon) as cost, RawClient(url, receive_buffer=4096) as client:
        client.send_until_refused(requests, seconds=2)
        sleep(1)
    cost.assert_limited(memory=16 * MIB)
