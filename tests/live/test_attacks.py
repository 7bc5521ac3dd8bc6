"""Attacks on a real daemon that is measured from outside.

The limits are on what the daemon itself computes and keeps, which does not depend on how busy the
machine is. They are about ten times what was measured, and far below the cost of an attack that
works.
"""

from __future__ import annotations

import json
import os
import re
import resource
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from errno import EISCONN
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from socket import socket
from threading import Thread
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from pushd.testing import Daemon
from tests.live.attacked_daemon import (
    MIB,
    UNLIMITED,
    assert_cut,
    control_url_of,
    measured,
    run_daemon,
    seconds_of,
    url_of,
)
from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, Frame, RawClient, frame, handshake, request
from tests.support.daemon_process import DaemonProcess
from tests.support.frame_heads import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame_head

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


# Frames


@pytest.mark.parametrize("payload", [b"", b"\0\0"], ids=["empty", "tiny"])
def test_fragments(unlimited_daemon: DaemonProcess, payload: bytes) -> None:
    """A message in too many fragments is closed with 1008."""
    fragment = frame(CONTINUATION, payload, fin=False)
    with (
        measured(unlimited_daemon) as cost,
        RawClient(url_of(unlimited_daemon)).upgrade("/echo/") as client,
    ):
        client.send(frame(BINARY, payload, fin=False))
        client.send_until_refused(fragment * 1024, 512)
        assert client.read_code() == 1008
    cost.assert_limited()


def test_small_fragments(unlimited_daemon: DaemonProcess) -> None:
    """1 MiB in fragments of 64 bytes is accepted, and others are served meanwhile."""
    fragments = frame(CONTINUATION, bytes(64), fin=False) * (MIB // 64 - 1)
    message = frame(BINARY, bytes(64), fin=False) + fragments + frame(CONTINUATION)
    with (
        measured(unlimited_daemon) as cost,
        RawClient(url_of(unlimited_daemon)).upgrade("/echo/") as client,
    ):
        client.send(message)
        assert client.read_frame() == Frame(BINARY, bytes(MIB))
    cost.assert_limited(memory=16 * MIB)


def test_pings(daemon: DaemonProcess, url: str) -> None:
    """A flood of pings is closed with 1008."""
    with measured(daemon) as cost, RawClient(url).upgrade("/echo/") as client:
        client.send_until_refused(frame(PING, bytes(125)) * 1000, 12)
        assert client.read_code() == 1008
    cost.assert_limited()


def test_tiny_messages(daemon: DaemonProcess, url: str) -> None:
    """A flood of tiny messages is closed with 1008 after the permitted burst."""
    with measured(daemon) as cost, RawClient(url).upgrade("/goodbye/") as quiet:
        quiet.read_code()
        with RawClient(url).upgrade("/echo/") as client:
            messages = frame(TEXT, b"x") * 1024
            sender = Thread(target=client.send_until_refused, args=(messages, 1024), daemon=True)
            sender.start()
            echoes = 0
            while (answer := client.read_frame()) is not None and answer.opcode != CLOSE:
                echoes += 1
            assert answer is not None
            assert answer.code == 1008
            sender.join(TIMEOUT)
        seconds = seconds_of(daemon, client, "/echo/", 1008)
        assert 10_000 <= echoes <= 10_000 + 1000 * seconds + 1
    cost.assert_limited()


def test_rate() -> None:
    """``--max-rate`` limits messages a second, with a burst of ten times as many."""
    with run_daemon("--max-rate", "20") as daemon:
        with RawClient(url_of(daemon)).upgrade("/echo/") as client:
            client.send(frame(TEXT, b"x") * 1000)
            answers = []
            while (answer := client.read_frame()) is not None:
                answers.append(answer)
                # The daemon would wait for the client's Close.
                if answer.opcode == CLOSE:
                    break
        assert [answer.opcode for answer in answers[:200]] == [TEXT] * 200
        assert answers[-1].opcode == CLOSE
        assert answers[-1].code == 1008
        assert len(answers[:-1]) <= 200 + 20 * seconds_of(daemon, client, "/echo/", 1008) + 1


def test_flood_after_close(daemon: DaemonProcess, url: str) -> None:
    """Data after the server's Close costs no more than data before it."""
    with measured(daemon) as cost, RawClient(url).upgrade("/goodbye/") as client:
        assert client.read_code() == 1000
        client.send_until_refused(frame(PING) * 1024, 4096)
        assert_cut(daemon, client, "/goodbye/", 1000)
    cost.assert_limited(cpu=1.5)


# Sizes


def test_oversize(daemon: DaemonProcess, url: str) -> None:
    """A frame beyond --max-message is refused by its head."""
    with measured(daemon) as cost:
        for length in (2 * MIB, 1 << 40, (1 << 63) - 1):
            with RawClient(url).upgrade("/echo/") as client:
                client.send(b"\x82\xff" + length.to_bytes(8, "big") + bytes(4))
                assert client.read_code() == 1009
        with RawClient(url).upgrade("/echo/") as client:
            client.send(frame_head(BINARY, 64 * MIB, fin=True, rsv=0))
            client.send_until_refused(bytes(MIB), 64)
            assert client.read_code() == 1009
    cost.assert_limited()


def test_barely_oversize(daemon: DaemonProcess, url: str) -> None:
    """A message of --max-message bytes is accepted; one more byte is not."""
    with RawClient(url).upgrade("/echo/") as client:
        client.send(frame(BINARY, bytes(MIB)))
        assert client.read_frame() == Frame(BINARY, bytes(MIB))
        client.send(frame(BINARY, bytes(MIB + 1)))
        assert client.read_code() == 1009


@pytest.mark.parametrize("level", [1, 5, 8])
def test_largest_compressed(url: str, level: int) -> None:
    """A message within the limit is accepted even if compression makes it larger."""
    message = os.urandom(MIB)
    deflater = zlib.compressobj(wbits=-12, memLevel=level)
    packed = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(packed) > MIB
    with RawClient(url) as client:
        client.upgrade("/echo/", "Sec-WebSocket-Extensions: permessage-deflate")
        client.send(frame(BINARY, packed, rsv=4))
        assert client.read_frame() == Frame(BINARY, message)


def test_oversize_together(daemon: DaemonProcess, url: str) -> None:
    """A message beyond the limit is refused before its last fragment."""
    fragment = frame(CONTINUATION, bytes(1 << 16), fin=False)
    with measured(daemon) as cost, RawClient(url).upgrade("/echo/") as client:
        client.send(frame(BINARY, fin=False))
        client.send_until_refused(fragment, 1000)
        assert client.read_code() == 1009
    cost.assert_limited()


@pytest.mark.parametrize("pieces", [1, 64])
def test_bomb(daemon: DaemonProcess, url: str, pieces: int) -> None:
    """A compressed message is limited by its decompressed size, in memory and CPU time."""
    deflater = zlib.compressobj(9, wbits=-12)
    # After a full flush, a part can be repeated.
    part = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    packed = part * (900_000 // len(part))
    assert len(packed) < MIB < 400 * MIB < len(packed) // len(part) * MIB
    size = len(packed) // pieces + 1
    frames = [
        frame(
            CONTINUATION if start else BINARY,
            packed[start : start + size],
            fin=start + size >= len(packed),
            rsv=0 if start else 4,
        )
        for start in range(0, len(packed), size)
    ]
    with measured(daemon) as cost, ExitStack() as stack:
        for _ in range(10):
            client = RawClient(url).upgrade(
                "/echo/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
            )
            stack.enter_context(client)
            client.send_until_refused(b"".join(frames))
            assert client.read_code() == 1009
    cost.assert_limited(memory=24 * MIB)


def test_unfinished_compressed() -> None:
    """An unfinished message takes no more memory than what was sent of it."""
    deflater = zlib.compressobj(9, wbits=-12)
    packed = deflater.compress(bytes(MIB - 1)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(packed) < 2048
    extension = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    with run_daemon("--max-per-address", "1000") as daemon:
        with measured(daemon) as cost, ExitStack() as stack:
            for _ in range(200):
                client = RawClient(url_of(daemon)).upgrade("/echo/", extension)
                stack.enter_context(client).send(frame(BINARY, packed, fin=False, rsv=4))
        cost.assert_limited(memory=8 * MIB)


def test_many_inflate(unlimited_daemon: DaemonProcess) -> None:
    """Many messages of 1 KiB that inflate to 1 MiB are read in turns; others do not wait."""
    deflater = zlib.compressobj(wbits=-15)
    packed = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    message = frame(BINARY, packed.removesuffix(b"\0\0\xff\xff"), rsv=4)
    with measured(unlimited_daemon) as cost, ExitStack() as stack:
        clients = []
        for _ in range(50):
            client = RawClient(url_of(unlimited_daemon)).upgrade(
                "/echo/", "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
            )
            clients.append(stack.enter_context(client))
        for client in clients:
            client.send(message)
        for client in clients:
            assert client.read_frame() is not None
    cost.assert_limited(memory=64 * MIB)
    # All together take half a second or more.
    assert cost.worst <= 0.2, str(cost)


# Connections


@pytest.mark.parametrize("path", ["", "/echo/"])
def test_opens_and_closes(daemon: DaemonProcess, url: str, path: str) -> None:
    """Clients that connect and disconnect leave nothing behind, with or without a WebSocket."""
    with measured(daemon) as cost:
        for number in range(1000):
            client = RawClient(url)
            if path:
                client.send(handshake(client.host, path))
                if number % 2:
                    client.read_head()
            client.reset()
    cost.assert_limited(cpu=6)


def test_slow_requests(daemon: DaemonProcess, url: str) -> None:
    """Hundreds of slow requests disturb no other client."""
    head = request("localhost", "/hits/", "X: y")[:-4]
    body = request("localhost", "/upload/", "Content-Length: 1000", method="POST")
    with measured(daemon) as cost, ExitStack() as stack:
        attackers = [stack.enter_context(RawClient(url)) for _ in range(600)]
        for number, client in enumerate(attackers):
            client.send(body if number % 2 else head)
        for _ in range(5):
            for client in attackers:
                client.send(b"y")
            sleep(0.3)
    cost.assert_limited(memory=600 * 64 * 1024)


@pytest.mark.parametrize("body", [False, True], ids=["head", "body"])
def test_slow_request_ends(body: bool) -> None:
    """A head must be complete within 20 s, and a body keep its pace, or the answer is 408."""
    daemon = Daemon()
    wire = daemon.open_connection()
    head = request("localhost:8080", "/test/", "Content-Length: 1000", "X: y", method="POST")
    wire.send(head if body else head[:-4])
    for _ in range(19):
        wire.send(b"y")
        daemon.advance(1)
    assert wire.received == b""
    daemon.advance(1)
    assert wire.received.startswith(b"HTTP/1.1 408 ")
    daemon.advance(5)
    assert wire.closed
    assert daemon.pending_calls == []


def test_refused_head_goes_on(daemon: DaemonProcess, url: str) -> None:
    """What a client sends after its request was refused is not read without end."""
    with measured(daemon) as cost, RawClient(url) as client:
        client.send(b"nonsense\r\n\r\n")
        # The kernel takes some MiB that the daemon does not.
        assert client.send_until_refused(bytes(MIB), times=200, seconds=3) < 50 * MIB
        assert client.read_head().startswith("HTTP/1.1 400 ")
    cost.assert_limited(cpu=0.5)


def test_pipelined_requests(daemon: DaemonProcess, url: str) -> None:
    """Thousands of pipelined requests do not delay other clients."""
    with measured(daemon) as cost, RawClient(url) as client:
        requests = request("x", "/hits/") * 2000
        sender = Thread(target=client.send_until_refused, args=(requests, 3), daemon=True)
        sender.start()
        for _ in range(6000):
            assert client.read_answer().status == 200
        sender.join(TIMEOUT)
    # Python does not return the memory of a burst of objects.
    cost.assert_limited(memory=24 * MIB, cpu=6)


def test_backlog(daemon: DaemonProcess, url: str) -> None:
    """A thousand connections made while the daemon is busy wait in the kernel's backlog."""
    port = urlsplit(url).port
    os.kill(daemon.pid, SIGSTOP)
    try:
        with ExitStack() as stack:
            waiting = []
            for _ in range(1000):
                client = stack.enter_context(socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
                waiting.append(client)
            deadline = monotonic() + TIMEOUT
            while waiting and monotonic() < deadline:
                waiting = [
                    client
                    for client in waiting
                    if client.connect_ex(("127.0.0.1", port)) not in (0, EISCONN)
                ]
    finally:
        os.kill(daemon.pid, SIGCONT)
    assert waiting == []


def test_max_connections() -> None:
    """Beyond ``--max-connections`` the answer is 503 with Retry-After, until connections end."""
    with run_daemon("--max-connections", "20") as daemon:
        url = url_of(daemon)
        with measured(daemon) as cost, ExitStack() as stack:
            for _ in range(19):  # The probe has one, too.
                stack.enter_context(RawClient(url).upgrade("/echo/"))
            for _ in range(200):
                beyond = RawClient(url)
                stack.enter_context(beyond)
                try:
                    answer = beyond.request("/hits/")
                except (AssertionError, OSError):
                    continue
                assert answer.status == 503
                assert answer.headers["retry-after"] == "5"
        with RawClient(url) as another:
            assert another.request("/hits/").status == 200
        cost.assert_limited()


def test_max_per_address() -> None:
    """``--max-per-address`` counts clients behind a trusted proxy by their forwarded addresses."""
    with run_daemon("--max-per-address", "3", "--trusted-proxy", "127.0.0.0/8") as daemon:
        url = url_of(daemon)
        with ExitStack() as stack:
            for _ in range(3):
                client = stack.enter_context(RawClient(url))
                client.upgrade("/echo/", "X-Forwarded-For: 10.9.9.9, 203.0.113.7")
            with RawClient(url) as fourth:
                answer = fourth.request("/hits/", "X-Forwarded-For: 203.0.113.7")
                assert answer.status == 503
                assert "retry-after" in answer.headers
                # What is left of the proxy's own entry may be forged.
                forged = fourth.request("/hits/", "X-Forwarded-For: 198.51.100.1, 203.0.113.7")
                assert forged.status == 503
                other = fourth.request("/hits/", "X-Forwarded-For: 198.51.100.1")
                assert other.status == 200
        with RawClient(url) as another:
            deadline = monotonic() + TIMEOUT
            line = "X-Forwarded-For: 203.0.113.7"
            while another.request("/hits/", line).status != 200 and monotonic() < deadline:
                sleep(0.1)
            assert another.request("/hits/", line).status == 200


def test_max_rate_per_address() -> None:
    """``--max-rate-per-address`` slows a client that opens, resumes or fails too fast, no other."""
    options = ("--max-rate-per-address", "5", "--trusted-proxy", "127.0.0.0/8", *CONTROL)
    attacker, other = "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 198.51.100.1"
    with run_daemon(*options) as daemon, measured(daemon) as cost:
        url, start = url_of(daemon), monotonic()
        with RawClient(url) as client:
            # A burst of 50, and 16 more: handshakes and failures.
            for _ in range(33):
                with RawClient(url) as opened:
                    opened.upgrade("/echo/", attacker)
                assert client.request("/nothing", attacker).status == 404
            assert monotonic() - start > 15 / 5
            # One that waits lets others pass.
            client.send(request(client.host, "/nothing", attacker) * 2)
            with RawClient(url) as another:
                for _ in range(70):
                    assert another.request("/hits/", other).status == 200
            assert client.read_answer().status == 404
            assert client.read_answer().status == 404
        daemon.wait_for(r"203\.0\.113\.7 is slowed")
        with RawClient(control_url_of(daemon)) as operator:
            metrics = operator.request("/metrics").body.decode()
        slowed = re.search(r"^pushd_slowed_total (\d+)", metrics, re.MULTILINE)
        assert slowed is not None and 1 <= int(slowed[1]) <= 18
    cost.assert_limited()


def test_max_rate_per_address_of_connections() -> None:
    """The connection of a client that fails too fast is read later."""
    options = ("--max-rate-per-address", "5", "--listen", "haproxy:tcp:0:interface=127.0.0.1")
    with run_daemon(*options) as daemon:
        start = monotonic()
        with RawClient(url_of(daemon)) as client:
            client.send(b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 80\r\n")
            for _ in range(66):
                assert client.request("/nothing").status == 404
            assert monotonic() - start > 15 / 5
        daemon.wait_for(r"203\.0\.113\.7 is slowed")


def test_forwarded_without_trusted_proxy(daemon: DaemonProcess, url: str) -> None:
    """Without ``--trusted-proxy``, X-Forwarded-For is ignored."""
    with RawClient(url) as client:
        answer = client.request("/hits/", "X-Forwarded-For: 203.0.113.77")
        assert answer.status == 200
    assert not [line for line in daemon.log if "203.0.113.77" in line]


def test_no_descriptors_left() -> None:
    """When accept() fails for lack of descriptors, the daemon does not spin, and recovers."""
    with run_daemon() as daemon:
        url, status = url_of(daemon), ProcessStatus(daemon.pid)
        allowed = status.descriptors + 60
        with measured(daemon) as cost, ExitStack() as stack:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (allowed, allowed))
            for _ in range(200):
                stack.enter_context(RawClient(url))
            sleep(0.5)
            before = status.cpu
            sleep(2)
            idle = status.cpu - before
        assert status.descriptors < allowed
        # This includes the echoes to the probe.
        assert idle < 0.7
        cost.assert_limited()
        with RawClient(url) as another:
            assert another.request("/hits/").status == 200


# HTTP

SMUGGLED = b"GET /behind/ HTTP/1.1\r\nHost: x\r\n\r\n"

SHAPES = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: 36",
    "two lengths in one": b"Content-Length: 0, 36",
    "the same length twice": b"Content-Length: 0\r\nContent-Length: 0",
    "signed length": b"Content-Length: +0",
    "negative length": b"Content-Length: -1",
    "length in another base": b"Content-Length: 0x0",
    "length with a low line": b"Content-Length: 0_0",
    "no length": b"Content-Length: ",
    "length and chunked": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked and more": b"Transfer-Encoding: chunked, identity",
    "unknown coding": b"Transfer-Encoding: xchunked",
    "coding in disguise": b"Transfer-Encoding: \x0bchunked",
    "bare CR": b"X: a\rContent-Length: 36",
    "bare LF": b"X: a\nContent-Length: 36",
    "obs-fold": b"X: a\r\n Content-Length: 36",
    "obs-fold with a tab": b"X: a\r\n\tContent-Length: 36",
    "space before the colon": b"Content-Length : 36",
    "no colon": b"Content-Length",
    "no name": b": 36",
    "NUL": b"X: a\0b",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_smuggling(url: str, shape: bytes) -> None:
    """An ambiguous request is 400, and ends its connection."""
    with RawClient(url) as client:
        before = client.request("/hits/").body
        head = b"POST /upload/ HTTP/1.1\r\nHost: x\r\n" + shape + b"\r\n\r\n"
        client.send(head + b"0\r\n\r\n" + SMUGGLED + SMUGGLED)
        received = client.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1, received
    with RawClient(url) as another:
        assert another.request("/hits/").body == before


CHUNKS = {
    "bare LF": b"5\n12345\r\n0\r\n\r\n",
    "bare LF in an extension": b"5;\n\r\n12345\r\n0\r\n\r\n",
    "negative": b"-1\r\n",
    "prefixed": b"0x5\r\n12345\r\n0\r\n\r\n",
    "longer than it says": b"5\r\n123456\r\n0\r\n\r\n",
    "low line": b"5_0\r\n",
    "no length": b"\r\n\r\n",
    "long line": b"0" * 5000 + b"\r\n",
    "control byte": b"5\x0b\r\n12345\r\n0\r\n\r\n",
    "bare LF in a trailer": b"0\r\nX: a\nb\r\n\r\n",
    "bare CR in a trailer": b"0\r\nX: a\rb\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_chunks(url: str, chunks: bytes) -> None:
    """A chunked body with any mistake is 400, and ends its connection."""
    with RawClient(url) as client:
        before = client.request("/hits/").body
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        client.send(head + chunks + SMUGGLED)
        received = client.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1, received
    with RawClient(url) as another:
        assert another.request("/hits/").body == before


@pytest.mark.parametrize("byte", [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x00, 0x7F])
@pytest.mark.parametrize("upgrade", [False, True], ids=["http", "websocket"])
def test_header_injection(url: str, byte: int, upgrade: bool) -> None:
    """A control byte in a header is 400; it does not start another header."""
    line = f"X: a{chr(byte)}X-User: admin"
    with RawClient(url) as client:
        make = handshake if upgrade else request
        client.send(make("x", "/headers/", line))
        received = client.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert b"admin" not in received


def test_header_injection_by_newline(url: str) -> None:
    """The byte 0x85, a newline to some parsers, is part of the header's value."""
    with RawClient(url) as client:
        client.send(handshake("x", "/headers/", "X: a\x85X-User: admin"))
        head = client.read_head()
        if head.startswith("HTTP/1.1 400 "):
            return
        reply = client.read_frame()
    assert reply is not None
    headers = json.loads(reply.payload)
    assert "x-user" not in headers
    assert headers["x"] == "a\x85X-User: admin"


TRAVERSALS = [
    "/../secret.txt",
    "/../../../../../../../../etc/passwd",
    "/%2e%2e/secret.txt",
    "/%2E%2E%2Fsecret.txt",
    "/..%2fsecret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/folder/../../secret.txt",
    "/folder/%2e%2e/%2e%2e/secret.txt",
    "/%252e%252e/secret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/%uff0e%uff0e/secret.txt",
    "/..;/secret.txt",
    "/./secret.txt",
    "//secret.txt",
    "///etc/passwd",
    "/%2fetc/passwd",
    "/..%00/secret.txt",
    "/secret.txt%00.html",
    "/.hidden",
    "/%2ehidden",
    "/link.txt",
    "/folder",
    "/folder/",
    "/pipe",
    "/index.html/",
    "/index.html/../../secret.txt",
    "file:///etc/passwd",
]


def test_traversal(tmp_path: Path) -> None:
    """No spelling of a path leads out of the folder, to a dotfile, a listing or a device."""
    web = tmp_path / "web"
    (web / "folder").mkdir(parents=True)
    (web / "index.html").write_text("welcome")
    (web / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (web / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(web / "pipe")
    with run_daemon("--web", str(web)) as daemon:
        for path in TRAVERSALS:
            with RawClient(url_of(daemon)) as client:
                answer = client.request(path)
                assert answer.status == 404, (path, answer)
                assert b"secret" not in answer.body, path
                assert b"root:" not in answer.body, path
        with RawClient(url_of(daemon)) as another:
            assert another.request("/").body == b"welcome"


def test_pipelined_behind_a_body(url: str) -> None:
    """A request that is pipelined behind a body is answered."""
    for body in (
        b"Content-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    ):
        with RawClient(url) as client:
            client.send(b"POST /upload/ HTTP/1.1\r\nHost: x\r\n" + body + SMUGGLED)
            assert client.read_answer().body == b"3"
            assert client.read_answer().body == b"behind"


def test_large_body(daemon: DaemonProcess, url: str) -> None:
    """A body beyond the limit is 413 by its Content-Length, before it comes."""
    with measured(daemon) as cost:
        with RawClient(url) as client:
            head = request("x", "/upload/", f"Content-Length: {64 * MIB}", method="POST")
            client.send(head)
            assert client.read_answer().status == 413
            client.send_until_refused(bytes(MIB), 64)
        with RawClient(url) as client:
            head = request("x", "/upload/", f"Content-Length: {64 * MIB}", method="POST")
            client.send(head)
            client.send_until_refused(bytes(MIB), 64)
            assert client.read_answer().status == 413
    cost.assert_limited()


def test_large_body_in_chunks(daemon: DaemonProcess, url: str) -> None:
    """A chunked body is 413 once it is beyond the limit."""
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with measured(daemon) as cost, RawClient(url) as client:
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        client.send(head)
        client.send_until_refused(chunk, 1024)
        assert client.read_answer().status == 413
    cost.assert_limited()


def test_tiny_chunks(daemon: DaemonProcess, url: str) -> None:
    """A body in chunks of one byte delays no other client."""
    with measured(daemon) as cost, RawClient(url) as client:
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        client.send(head)
        client.send_until_refused(b"1\r\nx\r\n" * 1024, 1024, seconds=8)
    cost.assert_limited(cpu=12)


def test_form_of_many_fields(daemon: DaemonProcess, url: str) -> None:
    """A form with half a million fields is not parsed."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    with measured(daemon) as cost, RawClient(url) as client:
        answer = client.request(
            "/upload/", kind, f"Content-Length: {MIB}", method="POST", body=b"a&" * (MIB // 2)
        )
        assert (answer.status, answer.body) == (200, str(MIB).encode())
    cost.assert_limited()


def test_long_query(daemon: DaemonProcess, url: str) -> None:
    """A URL that is too long is 414; headers that are too many or too long are 431."""
    with measured(daemon) as cost:
        for data, status in (
            (b"GET /" + b"a" * MIB, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * MIB, 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
            (b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 100, 431),
            (b"\r\n" * MIB, 400),
        ):
            with RawClient(url) as client:
                client.send_until_refused(data)
                assert client.read_answer().status == status, data[:20]
    cost.assert_limited()


# Origins


def open_from(url: str, origin: str | None, *, version: int = 13) -> int:
    """Send a handshake with an Origin, and return the status."""
    with RawClient(url) as client:
        lines = [] if origin is None else [f"Origin: {origin}"]
        client.send(handshake(client.host, "/echo/", *lines, version=version))
        return int(client.read_head().split(" ")[1])


def test_foreign_origin(url: str) -> None:
    """Other origins get 403; the daemon's own and clients without Origin are accepted."""
    own = url.rstrip("/")
    assert open_from(url, own) == 101
    assert open_from(url, None) == 101
    for origin in (
        "null",
        "http://evil.example",
        f"{own}.evil.example",
        own.replace("http://", "https://"),
        "http://127.0.0.1",
        f"{own}@evil.example",
        "http://evil.example#" + own,
        "",
        "*",
    ):
        assert open_from(url, origin) == 403, origin


def test_allowed_origins() -> None:
    """``--origin`` allows exactly the origins that it names."""
    allowed = ("https://example.com", "https://*.example.org", "capacitor://localhost", "file://")
    with run_daemon(*(word for one in allowed for word in ("--origin", one))) as daemon:
        url = url_of(daemon)
        for origin in (
            "https://example.com",
            "https://example.com:443",
            "https://EXAMPLE.com",
            "https://a.example.org",
            "https://a.b.example.org",
            "capacitor://localhost",
            "file://",
        ):
            assert open_from(url, origin) == 101, origin
        for origin in (
            "http://example.com",
            "https://example.com:8443",
            "https://a.example.com",
            "https://example.com.evil.example",
            "https://example.org",
            "https://evilexample.org",
            "https://evil.example/.example.org",
            "https://evil.example?.example.org",
            "https://evil.example\\.example.org",
            "null",
            "ionic://localhost",
            "capacitor://localhost.evil.example",
        ):
            assert open_from(url, origin) == 403, origin


@pytest.mark.parametrize("text", ["\x80", "http://\xff", "http://[::1", "http://a:b", "//", "é"])
def test_odd_origin(url: str, text: str) -> None:
    """A malformed origin or host is refused without an error."""
    assert open_from(url, text) in (400, 403)
    with RawClient(url) as client:
        client.send(handshake(text, "/echo/", "Origin: http://127.0.0.1"))
        assert client.read_answer().status in (400, 403)


def test_all_origins() -> None:
    """``--origin *`` allows every origin."""
    with run_daemon("--origin", "*") as daemon:
        for origin in ("https://example.com", "null", None):
            assert open_from(url_of(daemon), origin) == 101, origin


def test_dns_rebinding() -> None:
    """With ``--host``, a page that has rebound its own name reaches nothing."""
    with run_daemon("--host", "push.example.com", "--host", "127.0.0.1") as daemon:
        url = url_of(daemon)
        for path in ("/", "/hits/", "/topics/t?wait=0", "/pushd.js"):
            for host, status in (
                ("evil.example", 421),
                ("localhost", 421),
                ("push.example.com", 200),
                (urlsplit(url).netloc, 200),
            ):
                with RawClient(url) as client:
                    client.send(request(host, path))
                    assert client.read_answer().status == status, (host, path)
        with RawClient(url) as client:
            client.send(handshake("evil.example", "/echo/"))
            assert client.read_head().startswith("HTTP/1.1 421 ")


def test_control_port() -> None:
    """The control port refuses pages, and unknown names in Host but for health checks."""
    with run_daemon(*CONTROL) as daemon:
        url = control_url_of(daemon)
        with RawClient(url) as client:
            assert client.request("/healthz").status == 200
            port = client.host.rpartition(":")[2]
            for host in (client.host, f"localhost:{port}", "127.0.0.1"):
                client.send(request(host, "/healthz"))
                assert client.read_answer().status == 200, host
            for host in (
                "evil.example",
                f"evil.example:{port}",
                "localhost.evil.example",
                "",
                "\x80",
            ):
                client.send(request(host, "/metrics"))
                assert client.read_answer().status in (400, 403), host
            client.send(request("evil.example", "/healthz"))
            assert client.read_answer().status == 200
            for origin in ("http://evil.example", "null", url_of(daemon).rstrip("/")):
                assert client.request("/healthz", f"Origin: {origin}").status == 403, origin
            # That of the operator's page.
            assert client.request("/healthz", f"Origin: {url.rstrip('/')}").status == 200
            client.send(handshake("evil.example", "/healthz"))
            assert client.read_answer().status == 403
        with RawClient(url_of(daemon)) as client:
            assert client.request("/healthz").status == 404
            assert client.request("/metrics").status == 404


def test_old_version(url: str) -> None:
    """A handshake with another version than 13 is 426, and says which one is supported."""
    with RawClient(url) as client:
        client.send(handshake(client.host, "/echo/", version=8))
        answer = client.read_answer()
    assert answer.status == 426
    assert answer.headers["sec-websocket-version"] == "13"
