"""What a stranger may try, each against a real daemon that is watched from outside.

Nothing here is a benchmark: what is bounded is what the daemon itself computes, keeps and counts,
which is no more on a busy machine. The bounds are some ten times what was measured, and far below
what an attack that works would cost.
"""

from __future__ import annotations

import json
import os
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

from pushd.testing.daemon import Daemon
from tests.daemon_process import DaemonProcess
from tests.frame_heads import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame_head
from tests.live.attacker import PATIENCE, Attacker, Frame, frame, handshake, request
from tests.live.victim import (
    MIB,
    assert_cut,
    control_url_of,
    running,
    seconds_of,
    url_of,
    watched,
)
from tests.live.vitals import Vitals

# Far more than a burst, for attacks that the rate would end before they began.
UNLIMITED = ("--max-rate", "10000000")

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon with its defaults."""
    with running() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def lax_daemon() -> Iterator[DaemonProcess]:
    """Run a daemon that has no rate to speak of, so that its other limits must do."""
    with running(*UNLIMITED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def url(daemon: DaemonProcess) -> str:
    """Give the address of the daemon with its defaults."""
    return url_of(daemon)


# Frames


@pytest.mark.parametrize("payload", [b"", b"\0\0"], ids=["empty", "tiny"])
def test_fragments(lax_daemon: DaemonProcess, payload: bytes) -> None:
    """A message in more fragments than it is worth ends with 1008, not in memory."""
    fragment = frame(CONTINUATION, payload, fin=False)
    with watched(lax_daemon) as damage, Attacker(url_of(lax_daemon)).upgrade("/echo/") as attacker:
        attacker.send(frame(BINARY, payload, fin=False))
        attacker.insist(fragment * 1024, 512)
        assert attacker.read_code() == 1008
    damage.assert_bounded()


def test_small_fragments(lax_daemon: DaemonProcess) -> None:
    """A mebibyte in fragments of 64 bytes is a message like any other, and others are served."""
    fragments = frame(CONTINUATION, bytes(64), fin=False) * (MIB // 64 - 1)
    message = frame(BINARY, bytes(64), fin=False) + fragments + frame(CONTINUATION)
    with watched(lax_daemon) as damage, Attacker(url_of(lax_daemon)).upgrade("/echo/") as attacker:
        attacker.send(message)
        assert attacker.read_frame() == Frame(BINARY, bytes(MIB))
    damage.assert_bounded(memory=16 * MIB)


def test_pings(daemon: DaemonProcess, url: str) -> None:
    """A flood of pings ends with 1008."""
    with watched(daemon) as damage, Attacker(url).upgrade("/echo/") as attacker:
        attacker.insist(frame(PING, bytes(125)) * 1000, 12)
        assert attacker.read_code() == 1008
    damage.assert_bounded()


def test_unread_pongs(lax_daemon: DaemonProcess) -> None:
    """The pongs of one who pings and does not read are bounded, and then it is cut."""
    with watched(lax_daemon) as damage:
        attacker = Attacker(url_of(lax_daemon), receive_buffer=4096).upgrade("/echo/")
        with attacker:
            attacker.insist(frame(PING, bytes(125)) * 1000, 100)
            assert_cut(lax_daemon, attacker, "/echo/", 1013)
    damage.assert_bounded(cpu=6)


def test_unread_echoes(lax_daemon: DaemonProcess) -> None:
    """The echoes of one who sends and does not read are bounded, and then it is cut."""
    with watched(lax_daemon) as damage:
        attacker = Attacker(url_of(lax_daemon), receive_buffer=4096).upgrade("/echo/")
        with attacker:
            attacker.insist(frame(BINARY, bytes(1 << 16)), 1000)
            assert_cut(lax_daemon, attacker, "/echo/", 1013)
    damage.assert_bounded(memory=12 * MIB, cpu=6)


def test_unread_messages(lax_daemon: DaemonProcess) -> None:
    """What a view does not read is left to wait with who sends it."""
    for message in (frame(BINARY, bytes(1 << 16)), frame(TEXT, b"x")):
        messages = message * (MIB // len(message))
        with watched(lax_daemon) as damage:
            with Attacker(url_of(lax_daemon)).upgrade("/asleep/") as attacker:
                # The kernel's buffers take some.
                sent = attacker.insist(messages, 64, seconds=2)
            with Attacker(url_of(lax_daemon)) as visitor:
                assert visitor.request("/wake/").body == b"awake"
            assert sent < 32 * MIB
        damage.assert_bounded()


def test_tiny_messages(daemon: DaemonProcess, url: str) -> None:
    """A flood of tiny messages ends with 1008 after the burst that all may have."""
    with watched(daemon) as damage, Attacker(url).upgrade("/goodbye/") as quiet:
        quiet.read_code()
        with Attacker(url).upgrade("/echo/") as attacker:
            messages = frame(TEXT, b"x") * 1024
            sender = Thread(target=attacker.insist, args=(messages, 1024), daemon=True)
            sender.start()
            echoes = 0
            while (answer := attacker.read_frame()) is not None and answer.opcode != CLOSE:
                echoes += 1
            assert answer is not None
            assert answer.code == 1008
            sender.join(PATIENCE)
        seconds = seconds_of(daemon, attacker, "/echo/", 1008)
        assert 10_000 <= echoes <= 10_000 + 1000 * seconds + 1
    damage.assert_bounded()


def test_rate() -> None:
    """With ``--max-rate``, that many messages a second pass, and ten times as many at once."""
    with running("--max-rate", "20") as daemon:
        with Attacker(url_of(daemon)).upgrade("/echo/") as attacker:
            attacker.send(frame(TEXT, b"x") * 1000)
            answers = []
            while (answer := attacker.read_frame()) is not None:
                answers.append(answer)
        assert [answer.opcode for answer in answers[:200]] == [TEXT] * 200
        assert answers[-1].opcode == CLOSE
        assert answers[-1].code == 1008
        assert len(answers[:-1]) <= 200 + 20 * seconds_of(daemon, attacker, "/echo/", 1008) + 1


def test_flood_behind_the_end(daemon: DaemonProcess, url: str) -> None:
    """Who floods on after the server's Close costs no more than who floods before it."""
    with watched(daemon) as damage, Attacker(url).upgrade("/goodbye/") as attacker:
        assert attacker.read_code() == 1000
        attacker.insist(frame(PING) * 1024, 4096)
        assert_cut(daemon, attacker, "/goodbye/", 1000)
    damage.assert_bounded(cpu=1.5)


# Sizes


def test_oversize(daemon: DaemonProcess, url: str) -> None:
    """A frame beyond the limit is refused when it is announced."""
    with watched(daemon) as damage:
        for length in (2 * MIB, 1 << 40, (1 << 63) - 1):
            with Attacker(url).upgrade("/echo/") as attacker:
                attacker.send(b"\x82\xff" + length.to_bytes(8, "big") + bytes(4))
                assert attacker.read_code() == 1009
        with Attacker(url).upgrade("/echo/") as attacker:
            attacker.send(frame_head(BINARY, 64 * MIB, fin=True, rsv=0))
            attacker.insist(bytes(MIB), 64)
            assert attacker.read_code() == 1009
    damage.assert_bounded()


def test_barely_oversize(daemon: DaemonProcess, url: str) -> None:
    """One byte beyond the limit is too much, the limit itself is not."""
    with Attacker(url).upgrade("/echo/") as attacker:
        attacker.send(frame(BINARY, bytes(MIB)))
        assert attacker.read_frame() == Frame(BINARY, bytes(MIB))
        attacker.send(frame(BINARY, bytes(MIB + 1)))
        assert attacker.read_code() == 1009


@pytest.mark.parametrize("level", [1, 5, 8])
def test_largest_compressed(url: str, level: int) -> None:
    """A message within the limit may be a little beyond it when it does not compress."""
    message = os.urandom(MIB)
    deflater = zlib.compressobj(wbits=-12, memLevel=level)
    packed = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(packed) > MIB
    with Attacker(url) as attacker:
        attacker.upgrade("/echo/", "Sec-WebSocket-Extensions: permessage-deflate")
        attacker.send(frame(BINARY, packed, rsv=4))
        assert attacker.read_frame() == Frame(BINARY, message)


def test_oversize_together(daemon: DaemonProcess, url: str) -> None:
    """Fragments that together go beyond the limit are refused on the way."""
    fragment = frame(CONTINUATION, bytes(1 << 16), fin=False)
    with watched(daemon) as damage, Attacker(url).upgrade("/echo/") as attacker:
        attacker.send(frame(BINARY, fin=False))
        attacker.insist(fragment, 1000)
        assert attacker.read_code() == 1009
    damage.assert_bounded()


@pytest.mark.parametrize("pieces", [1, 64])
def test_bomb(daemon: DaemonProcess, url: str, pieces: int) -> None:
    """What a compressed message unpacks to is bounded, in memory and time."""
    deflater = zlib.compressobj(9, wbits=-12)
    # Flushed like this, a part can be repeated.
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
    with watched(daemon) as damage, ExitStack() as stack:
        for _ in range(10):
            attacker = Attacker(url).upgrade(
                "/echo/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
            )
            stack.enter_context(attacker)
            attacker.insist(b"".join(frames))
            assert attacker.read_code() == 1009
    damage.assert_bounded(memory=24 * MIB)


# Peers that do not read, answer or go


@pytest.mark.parametrize("path", ["/flood/", "/stream/"])
def test_never_reads(daemon: DaemonProcess, url: str, path: str) -> None:
    """200 MB pushed at one who never reads end with 1013, and the connection 5 s later."""
    with watched(daemon) as damage:
        attacker = Attacker(url, receive_buffer=4096).upgrade(path)
        with attacker:
            assert_cut(daemon, attacker, path, 1013)
    damage.assert_bounded()


def test_reads_late(daemon: DaemonProcess, url: str) -> None:
    """Who reads at last, before the 5 s are over, learns why: 1013."""
    with watched(daemon) as damage, Attacker(url, receive_buffer=4096).upgrade("/flood/") as late:
        # The flood is over by the time that somebody else is served.
        with Attacker(url) as visitor:
            assert visitor.request("/hits/").status == 200
        assert late.read_code() == 1013
    damage.assert_bounded()


def test_many_never_read(daemon: DaemonProcess, url: str) -> None:
    """Each who never reads is held for 5 s with what one may have unread, and no more."""
    with watched(daemon) as damage, ExitStack() as stack:
        for _ in range(10):
            attacker = Attacker(url, receive_buffer=4096).upgrade("/stream/")
            stack.enter_context(attacker)
        sleep(3)
    damage.assert_bounded(memory=10 * 4 * MIB, cpu=8)


def test_patient_view(daemon: DaemonProcess, url: str) -> None:
    """A view that waits for its reader is not cut, and takes no memory meanwhile."""
    with watched(daemon) as damage:
        attacker = Attacker(url, receive_buffer=4096).upgrade("/patient/")
        with attacker:
            sleep(3)
            for _ in range(200):
                assert attacker.read_frame() == Frame(BINARY, bytes(1 << 16))
    damage.assert_bounded()


def test_no_answer_to_close(daemon: DaemonProcess, url: str) -> None:
    """Who does not answer a Close frame is gone after 5 s."""
    with Attacker(url).upgrade("/goodbye/") as attacker:
        assert attacker.read_code() == 1000
        assert attacker.read_frame() is None
        assert_cut(daemon, attacker, "/goodbye/", 1000)


def test_pong_without_ping() -> None:
    """A pong that answers no ping is no sign that anybody reads; told in memory."""
    daemon = Daemon()
    wire = daemon.open_connection()
    wire.send(handshake("localhost:8080", "/test/"))
    for _ in range(40):
        wire.send(frame(PONG, b"not asked for"))
        daemon.advance(1)
    assert wire.closed
    assert daemon.pending_calls == []


def test_no_answer_to_ping() -> None:
    """Who does not answer a ping is gone 10 s after it; told in memory, where time is free."""
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


# Connections


@pytest.mark.parametrize("path", ["", "/echo/"])
def test_opens_and_closes(daemon: DaemonProcess, url: str, path: str) -> None:
    """Connections that come and go leave nothing behind, with a WebSocket or before one."""
    with watched(daemon) as damage:
        for number in range(1000):
            attacker = Attacker(url)
            if path:
                attacker.send(handshake(attacker.host, path))
                if number % 2:
                    attacker.read_head()
            attacker.vanish()
    damage.assert_bounded(cpu=6)


def test_slow_requests(daemon: DaemonProcess, url: str) -> None:
    """Hundreds who dribble a head or a body are borne, and disturb nobody."""
    head = request("localhost", "/hits/", "X: y")[:-4]
    body = request("localhost", "/upload/", "Content-Length: 1000", method="POST")
    with watched(daemon) as damage, ExitStack() as stack:
        attackers = [stack.enter_context(Attacker(url)) for _ in range(600)]
        for number, attacker in enumerate(attackers):
            attacker.send(body if number % 2 else head)
        for _ in range(5):
            for attacker in attackers:
                attacker.send(b"y")
            sleep(0.3)
    damage.assert_bounded(memory=600 * 64 * 1024)


@pytest.mark.parametrize("body", [False, True], ids=["head", "body"])
def test_slow_request_ends(body: bool) -> None:
    """20 s are for a whole request, whatever comes of it meanwhile; then comes 408."""
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


def test_unread_file(tmp_path: Path) -> None:
    """A large file that nobody reads is not read either."""
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(256 * MIB)
    with running("--web", str(tmp_path)) as daemon:
        with watched(daemon) as damage, ExitStack() as stack:
            for _ in range(20):
                attacker = stack.enter_context(Attacker(url_of(daemon), receive_buffer=4096))
                attacker.send(request(attacker.host, "/large.bin") * 20)
            sleep(2)
        damage.assert_bounded()


def test_unread_file_ends(tmp_path: Path) -> None:
    """Who does not read a file for a minute is gone; told in memory, where time is free."""
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
    """Who asks and asks, and reads no answer, is not answered into memory."""
    requests = request("x", "/large/") * 1000
    with watched(daemon) as damage, Attacker(url, receive_buffer=4096) as attacker:
        attacker.insist(requests, seconds=2)
        sleep(1)
    damage.assert_bounded(memory=16 * MIB)


def test_pipelined_requests(daemon: DaemonProcess, url: str) -> None:
    """Thousands of requests in one segment are answered in turns with everybody else's."""
    with watched(daemon) as damage, Attacker(url) as attacker:
        requests = request("x", "/hits/") * 2000
        sender = Thread(target=attacker.insist, args=(requests, 3), daemon=True)
        sender.start()
        for _ in range(6000):
            assert attacker.read_answer().status == 200
        sender.join(PATIENCE)
    # What Python makes of a burst of objects, it keeps.
    damage.assert_bounded(memory=24 * MIB, cpu=6)


def test_backlog(daemon: DaemonProcess, url: str) -> None:
    """A thousand who come while the daemon is busy are kept by the kernel until it has time."""
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
            deadline = monotonic() + PATIENCE
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
    """Beyond ``--max-connections`` comes 503, said for when to try again; then all is well."""
    with running("--max-connections", "20") as daemon:
        url = url_of(daemon)
        with watched(daemon) as damage, ExitStack() as stack:
            for _ in range(19):  # The bystander has a place, too.
                stack.enter_context(Attacker(url).upgrade("/echo/"))
            for _ in range(200):
                beyond = Attacker(url)
                stack.enter_context(beyond)
                try:
                    answer = beyond.request("/hits/")
                except (AssertionError, OSError):
                    continue
                assert answer.status == 503
                assert answer.headers["retry-after"] == "5"
        with Attacker(url) as visitor:
            assert visitor.request("/hits/").status == 200
        damage.assert_bounded()


def test_max_per_address() -> None:
    """``--max-per-address`` counts those behind a proxy by what the proxy says of them."""
    with running("--max-per-address", "3", "--trusted-proxy", "127.0.0.0/8") as daemon:
        url = url_of(daemon)
        with ExitStack() as stack:
            for _ in range(3):
                attacker = stack.enter_context(Attacker(url))
                attacker.upgrade("/echo/", "X-Forwarded-For: 10.9.9.9, 203.0.113.7")
            with Attacker(url) as fourth:
                answer = fourth.request("/hits/", "X-Forwarded-For: 203.0.113.7")
                assert answer.status == 503
                assert "retry-after" in answer.headers
                # What stands to the left is of the client's own invention.
                forged = fourth.request("/hits/", "X-Forwarded-For: 198.51.100.1, 203.0.113.7")
                assert forged.status == 503
                other = fourth.request("/hits/", "X-Forwarded-For: 198.51.100.1")
                assert other.status == 200
        with Attacker(url) as visitor:
            deadline = monotonic() + PATIENCE
            line = "X-Forwarded-For: 203.0.113.7"
            while visitor.request("/hits/", line).status != 200 and monotonic() < deadline:
                sleep(0.1)
            assert visitor.request("/hits/", line).status == 200


def test_forwarded_by_a_stranger(daemon: DaemonProcess, url: str) -> None:
    """Without ``--trusted-proxy``, nobody's word on who asks counts."""
    with Attacker(url) as attacker:
        answer = attacker.request("/hits/", "X-Forwarded-For: 203.0.113.77")
        assert answer.status == 200
    assert not [line for line in daemon.log if "203.0.113.77" in line]


def test_no_descriptors_left() -> None:
    """When accept() fails for want of descriptors, the daemon does not spin, and recovers."""
    with running() as daemon:
        url, vitals = url_of(daemon), Vitals(daemon.pid)
        allowed = vitals.descriptors + 60
        with watched(daemon) as damage, ExitStack() as stack:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (allowed, allowed))
            for _ in range(200):
                stack.enter_context(Attacker(url))
            sleep(0.5)
            before = vitals.cpu
            sleep(2)
            idle = vitals.cpu - before
        assert vitals.descriptors < allowed
        # The other client's echoes are in it.
        assert idle < 0.7
        damage.assert_bounded()
        with Attacker(url) as visitor:
            assert visitor.request("/hits/").status == 200


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
    """A request that two servers may read in two ways is 400, and the end of its connection."""
    with Attacker(url) as attacker:
        before = attacker.request("/hits/").body
        head = b"POST /upload/ HTTP/1.1\r\nHost: x\r\n" + shape + b"\r\n\r\n"
        attacker.send(head + b"0\r\n\r\n" + SMUGGLED + SMUGGLED)
        received = attacker.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1, received
    with Attacker(url) as visitor:
        assert visitor.request("/hits/").body == before


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
    """A chunked body that is not to the letter is 400, and the end of its connection."""
    with Attacker(url) as attacker:
        before = attacker.request("/hits/").body
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        attacker.send(head + chunks + SMUGGLED)
        received = attacker.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert received.count(b"HTTP/1.1 ") == 1, received
    with Attacker(url) as visitor:
        assert visitor.request("/hits/").body == before


@pytest.mark.parametrize("byte", [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x00, 0x7F])
@pytest.mark.parametrize("upgrade", [False, True], ids=["http", "websocket"])
def test_header_injection(url: str, byte: int, upgrade: bool) -> None:
    """A control byte in a header is 400, and never the end of one header and the start of one."""
    line = f"X: a{chr(byte)}X-User: admin"
    with Attacker(url) as attacker:
        make = handshake if upgrade else request
        attacker.send(make("x", "/headers/", line))
        received = attacker.read_all()
    assert received.startswith(b"HTTP/1.1 400 "), received
    assert b"admin" not in received


def test_header_injection_by_newline(url: str) -> None:
    """0x85, a new line to some, is a byte of its header's value and nothing else."""
    with Attacker(url) as attacker:
        attacker.send(handshake("x", "/headers/", "X: a\x85X-User: admin"))
        head = attacker.read_head()
        if head.startswith("HTTP/1.1 400 "):
            return
        told = attacker.read_frame()
    assert told is not None
    headers = json.loads(told.payload)
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
    """No way of writing a path leads out of the folder, to a dotfile, a listing or a device."""
    web = tmp_path / "web"
    (web / "folder").mkdir(parents=True)
    (web / "index.html").write_text("welcome")
    (web / ".hidden").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (web / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(web / "pipe")
    with running("--web", str(web)) as daemon:
        for path in TRAVERSALS:
            with Attacker(url_of(daemon)) as attacker:
                answer = attacker.request(path)
                assert answer.status == 404, (path, answer)
                assert b"secret" not in answer.body, path
                assert b"root:" not in answer.body, path
        with Attacker(url_of(daemon)) as visitor:
            assert visitor.request("/").body == b"welcome"


def test_behind_a_body(url: str) -> None:
    """A request that comes right behind another's body is a request like any other."""
    for body in (
        b"Content-Length: 3\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    ):
        with Attacker(url) as attacker:
            attacker.send(b"POST /upload/ HTTP/1.1\r\nHost: x\r\n" + body + SMUGGLED)
            assert attacker.read_answer().body == b"3"
            assert attacker.read_answer().body == b"behind"


def test_large_body(daemon: DaemonProcess, url: str) -> None:
    """A body beyond the limit is 413 when it is announced, before it comes."""
    with watched(daemon) as damage:
        with Attacker(url) as attacker:
            head = request("x", "/upload/", f"Content-Length: {64 * MIB}", method="POST")
            attacker.send(head)
            assert attacker.read_answer().status == 413
            attacker.insist(bytes(MIB), 64)
        with Attacker(url) as attacker:
            head = request("x", "/upload/", f"Content-Length: {64 * MIB}", method="POST")
            attacker.send(head)
            attacker.insist(bytes(MIB), 64)
            assert attacker.read_answer().status == 413
    damage.assert_bounded()


def test_large_body_in_chunks(daemon: DaemonProcess, url: str) -> None:
    """A body that does not say how large it is, is 413 once it is too large."""
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with watched(daemon) as damage, Attacker(url) as attacker:
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        attacker.send(head)
        attacker.insist(chunk, 1024)
        assert attacker.read_answer().status == 413
    damage.assert_bounded()


def test_tiny_chunks(daemon: DaemonProcess, url: str) -> None:
    """A body in chunks of one byte takes its time, and no more than that of others."""
    with watched(daemon) as damage, Attacker(url) as attacker:
        head = request("x", "/upload/", "Transfer-Encoding: chunked", method="POST")
        attacker.send(head)
        attacker.insist(b"1\r\nx\r\n" * 1024, 1024, seconds=8)
    damage.assert_bounded(cpu=12)


def test_form_of_many_fields(daemon: DaemonProcess, url: str) -> None:
    """A form of half a million fields is a body like any other."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    with watched(daemon) as damage, Attacker(url) as attacker:
        answer = attacker.request(
            "/upload/", kind, f"Content-Length: {MIB}", method="POST", body=b"a&" * (MIB // 2)
        )
        assert (answer.status, answer.body) == (200, str(MIB).encode())
    damage.assert_bounded()


def test_long_query(daemon: DaemonProcess, url: str) -> None:
    """An address beyond the limit is 414, too many headers are 431, and too long ones too."""
    with watched(daemon) as damage:
        for data, status in (
            (b"GET /" + b"a" * MIB, 414),
            (b"GET / HTTP/1.1\r\nX: " + b"a" * MIB, 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
            (b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 8000 + b"\r\n") * 100, 431),
            (b"\r\n" * MIB, 400),
        ):
            with Attacker(url) as attacker:
                attacker.insist(data)
                assert attacker.read_answer().status == status, data[:20]
    damage.assert_bounded()


# Origins


def open_from(url: str, origin: str | None, *, version: int = 13) -> int:
    """Ask for a WebSocket as a page of this origin does, and give the status."""
    with Attacker(url) as attacker:
        lines = [] if origin is None else [f"Origin: {origin}"]
        attacker.send(handshake(attacker.host, "/echo/", *lines, version=version))
        return int(attacker.read_head().split(" ")[1])


def test_foreign_origin(url: str) -> None:
    """Pages of strangers and of nowhere get 403; our own, and clients that are no page, come in."""
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
    """``--origin`` lets in exactly whom it names."""
    with running("--origin", "https://example.com", "--origin", "https://*.example.org") as daemon:
        url = url_of(daemon)
        for origin in (
            "https://example.com",
            "https://example.com:443",
            "https://EXAMPLE.com",
            "https://a.example.org",
            "https://a.b.example.org",
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
        ):
            assert open_from(url, origin) == 403, origin


@pytest.mark.parametrize("text", ["\x80", "http://\xff", "http://[::1", "http://a:b", "//", "é"])
def test_odd_origin(url: str, text: str) -> None:
    """An origin that is none is refused, and no failure of ours."""
    assert open_from(url, text) in (400, 403)
    with Attacker(url) as attacker:
        attacker.send(handshake(text, "/echo/", "Origin: http://127.0.0.1"))
        assert attacker.read_answer().status in (400, 403)


def test_all_origins() -> None:
    """``--origin *`` lets in everybody."""
    with running("--origin", "*") as daemon:
        for origin in ("https://example.com", "null", None):
            assert open_from(url_of(daemon), origin) == 101, origin


def test_control_door() -> None:
    """The control port answers no page, and to no name that somebody may point at it."""
    with running(*CONTROL) as daemon:
        url = control_url_of(daemon)
        with Attacker(url) as operator:
            assert operator.request("/healthz").status == 200
            port = operator.host.rpartition(":")[2]
            for host in (operator.host, f"localhost:{port}", "127.0.0.1"):
                operator.send(request(host, "/healthz"))
                assert operator.read_answer().status == 200, host
            for host in (
                "evil.example",
                f"evil.example:{port}",
                "localhost.evil.example",
                "",
                "\x80",
            ):
                operator.send(request(host, "/healthz"))
                assert operator.read_answer().status in (400, 403), host
            for origin in ("http://evil.example", "null", url.rstrip("/")):
                assert operator.request("/healthz", f"Origin: {origin}").status == 403, origin
            operator.send(handshake("evil.example", "/healthz"))
            assert operator.read_answer().status == 403
        with Attacker(url_of(daemon)) as stranger:
            assert stranger.request("/healthz").status == 404
            assert stranger.request("/metrics").status == 404


def test_old_version(url: str) -> None:
    """Of WebSocket, version 13 is spoken; who wants another is told."""
    with Attacker(url) as attacker:
        attacker.send(handshake(attacker.host, "/echo/", version=8))
        answer = attacker.read_answer()
    assert answer.status == 426
    assert answer.headers["sec-websocket-version"] == "13"
