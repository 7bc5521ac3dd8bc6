"""The workloads of wss and of compressed messages. The load generator is in Python.

Each runs beside the same work without TLS or compression, so the ratio has little noise.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from OpenSSL.SSL import TLS_SERVER_METHOD, Connection, Context, WantReadError

from bench.readings import scaled
from bench.rival import Start
from bench.server import Server
from bench.workload import Measure, Workload

# Handshakes at a time, and those before the measurement.
_AT_ONCE, _WARM = 20, 40

# Publications before and during the measurement, each after all deliveries of the last.
_WARM_ROUNDS, _ROUNDS = 10, 40

_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
_CLOSE = b"\x88\x80\0\0\0\0"

# What a page that shows a table may be sent.
_ROW = '{"id": %d, "name": "sensor-%d", "state": "on", "value": %d.5, "unit": "kW"}'


@dataclass(frozen=True)
class Client:
    """How to connect: with TLS or without, and with which extensions."""

    context: ssl.SSLContext | None = None
    headers: str = ""

    def connect(self, port: int, path: str, session: ssl.SSLSession | None = None) -> socket.socket:
        """Open a WebSocket."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            connection = self.context.wrap_socket(connection, session=session)
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{self.headers}\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += receive(connection, 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise RuntimeError(f"{path}: {head!r}")
        return connection

    def connect_and_close(self, port: int, path: str, session: ssl.SSLSession | None) -> bool:
        """Open a WebSocket and close it; return whether its session was resumed."""
        with self.connect(port, path, session) as connection:
            connection.sendall(_CLOSE)
            receive(connection, 2)
            return isinstance(connection, ssl.SSLSocket) and bool(connection.session_reused)


def receive(connection: socket.socket, size: int) -> bytes:
    """Receive exactly this number of bytes."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise RuntimeError("the server has ended a connection")
        data += piece
    return data


def receive_frame(connection: socket.socket) -> bytes:
    """Receive a frame of less than 64 KiB, with its head."""
    head = receive(connection, 2)
    if head[1] == 126:
        head += receive(connection, 2)
        return head + receive(connection, int.from_bytes(head[2:]))
    return head + receive(connection, head[1])


def run_tls(server: Server, scale: float) -> Mapping[str, float]:
    """T1: handshakes, full and resumed; then 400 subscribers, one publication at a time."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_certificate(folder)
        start = server.rival.start
        rival = replace(server.rival, start=lambda where: _with_tls(start(where), folder))
        with Server(rival, folder) as secure:
            alone = _handshake_alone(folder, scaled(200, scale))
            found = _compare_tls(server, secure, scale)
    return {**found, "t1.full-ratio": found["t1.full"] / alone}


def _handshake_alone(folder: Path, count: int) -> float:
    """Return the CPU time of the server's side of a full handshake in memory, in microseconds."""
    context = Context(TLS_SERVER_METHOD)
    context.use_certificate_file(folder / "certificate.pem")
    context.use_privatekey_file(folder / "key.pem")
    client, spent = _trusting(), 0.0
    for _ in range(count):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = client.wrap_bio(incoming, outgoing)
        began = time.thread_time()
        connection = Connection(context)
        connection.set_accept_state()
        spent += time.thread_time() - began
        for _ in range(2):
            with suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            began = time.thread_time()
            connection.bio_write(outgoing.read())
            with suppress(WantReadError):
                connection.do_handshake()
            incoming.write(connection.bio_read(1 << 16))
            spent += time.thread_time() - began
    return spent / count * 1e6


def _trusting() -> ssl.SSLContext:
    """Return a client's context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _compare_tls(plain: Server, secure: Server, scale: float) -> Mapping[str, float]:
    with_tls, without = Client(_trusting()), Client()
    path = plain.rival.paths["subscribe"]
    with closing(with_tls.connect(secure.port, path)) as first:
        assert isinstance(first, ssl.SSLSocket)
        session = first.session
    count = scaled(600, scale)
    base = _handshakes(plain, without, path, count)
    found = {
        "t1.full": _handshakes(secure, with_tls, path, count) - base,
        "t1.resumed": _handshakes(secure, with_tls, path, count, session) - base,
    }
    subscribers = scaled(400, scale)
    memory = secure.memory()
    encrypted = _deliveries(secure, with_tls, subscribers, _short)
    found["t1.delivery"] = encrypted.cpu
    found["t1.memory"] = (encrypted.memory - memory) / subscribers
    found["t1.ratio"] = encrypted.cpu / _deliveries(plain, without, subscribers, _short).cpu
    return found


def _handshakes(
    server: Server, client: Client, path: str, count: int, session: ssl.SSLSession | None = None
) -> float:
    """Return the CPU time for a connection that is opened and closed."""

    def work(_: int) -> bool:
        return client.connect_and_close(server.port, path, session)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(work, range(_WARM)))
        began = server.cpu()
        resumed = sum(pool.map(work, range(count)))
        spent = server.cpu() - began
    if resumed != (0 if session is None else count):
        raise RuntimeError(f"{resumed} of {count} sessions were resumed")
    return spent / count


def run_deflate(server: Server, scale: float) -> Mapping[str, float]:
    """D1: 1,000 subscribers with compression and without, one publication at a time."""
    subscribers = scaled(1000, scale)
    compressed = _deliveries(server, Client(headers=_DEFLATE), subscribers, _table).cpu
    plain = _deliveries(server, Client(), subscribers, _table).cpu
    return {"d1.cpu": compressed, "d1.ratio": compressed / plain}


def _short(number: int) -> str:
    return f"{number:0128}"


def _table(number: int) -> str:
    return "[" + ", ".join(_ROW % (one, one, number + 7 * one) for one in range(12)) + "]"


@dataclass(frozen=True)
class Delivered:
    """Cost of deliveries: CPU in µs of each, and memory at the end in KiB."""

    cpu: float
    memory: float


def _deliveries(
    server: Server, client: Client, subscribers: int, payload: Callable[[int], str]
) -> Delivered:
    """Publish one by one, and compare every frame with the others of its publication."""
    paths = server.rival.paths
    plain = Client(client.context)
    with ExitStack() as stack:
        publisher = stack.enter_context(plain.connect(server.port, paths["publish"]))
        crowd = [
            stack.enter_context(client.connect(server.port, paths["subscribe"]))
            for _ in range(subscribers)
        ]
        for number in range(_WARM_ROUNDS + _ROUNDS):
            if number == _WARM_ROUNDS:
                began = server.cpu()
            text = payload(number).encode()
            publisher.sendall(b"\x81\xfe" + len(text).to_bytes(2) + bytes(4) + text)
            _check_frames(crowd, text, compressed=bool(client.headers))
        spent = server.cpu() - began
        return Delivered(spent / _ROUNDS / subscribers, server.memory())


def _check_frames(crowd: Sequence[socket.socket], text: bytes, *, compressed: bool) -> None:
    first = receive_frame(crowd[0])
    if compressed != (first[0] == 0xC1) or (not compressed and not first.endswith(text)):
        raise RuntimeError(f"unexpected frame {first!r}")
    for connection in crowd[1:]:
        if receive(connection, len(first)) != first:
            raise RuntimeError("a subscriber has received something else")


def make_certificate(folder: Path) -> None:
    """Write a key (RSA, 2,048 bits) and a certificate for it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, secret))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))


def _with_tls(start: Start, folder: Path) -> Start:
    """Return how to start a server with TLS: pushd, or nginx with Nchan."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if start.control is None:
        file = Path(start.command[2])
        tls = f"ssl backlog=4096; ssl_certificate {certificate}; ssl_certificate_key {key};"
        file.write_text(file.read_text().replace("backlog=4096;", tls))
        return start
    command = list(start.command)
    plain = command.index("tcp:0:interface=127.0.0.1")
    command[plain] = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    return replace(start, command=command, ready=start.ready.replace("http:", "https:"))


SECURE: tuple[Workload, ...] = (
    Workload(
        "t1",
        "wss, 400 subscribers",
        run_tls,
        (
            Measure("t1.full", "T1 TLS handshake, RSA 2048: CPU on top of a plain one", "µs"),
            Measure("t1.full-ratio", "T1 the same / OpenSSL alone, in memory", "x", 1.5),
            Measure("t1.resumed", "T1 handshake, resumed: CPU on top of a plain one", "µs", 600),
            Measure("t1.delivery", "T1 128 B over TLS, one at a time: CPU per delivery", "µs"),
            Measure("t1.ratio", "T1 the same / a delivery without TLS", "x", 2),
            Measure("t1.memory", "T1 memory per connection", "KiB", 30),
        ),
        rivals=frozenset({"pushd", "nchan"}),
        family="TLS and compression",
    ),
    Workload(
        "d1",
        "compressed fan-out to 1,000",
        run_deflate,
        (
            Measure("d1.cpu", "D1 850 B of JSON, compressed: CPU per delivery", "µs"),
            Measure("d1.ratio", "D1 the same / not compressed", "x", 1.3),
        ),
        rivals=frozenset({"pushd"}),
        family="TLS and compression",
    ),
)
