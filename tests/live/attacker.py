"""A client that keeps no rule, and what is seen of its victim from outside."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import struct
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import monotonic, sleep
from types import TracebackType
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.daemon_process import DaemonProcess
from tests.peer import CLOSE, TEXT, frame_head

HERE = Path(__file__).parent
VIEWS = ("--views", "attack_views:views")

MIB = 1 << 20

# How long anything may take that is not to take long, in seconds.
PATIENCE = 15.0

# How long another client may wait for its echo while an attack goes on, in seconds: usually, and
# at worst. The machine that this runs on may have other things to do.
MEDIAN_LATENCY = 0.25
WORST_LATENCY = 2.0

_TICKS = os.sysconf("SC_CLK_TCK")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """A frame as the server sent it."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return int.from_bytes(self.payload[:2], "big")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, and all that came behind it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Attacker:
    """One connection to a daemon, held by a client that does as it pleases.

    ``receive_buffer`` is how many bytes the kernel takes for a client that does not read. Where
    the URL is ``https:``, it believes any certificate, unless ``context`` says otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc
        plain = socket.socket()
        plain.settimeout(PATIENCE)
        if receive_buffer is not None:
            # Before connecting, or the window is larger already.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.connect((parts.hostname, parts.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = plain
        if parts.scheme == "https":
            try:
                self.socket = (context or trusting()).wrap_socket(plain)
            except BaseException:
                plain.close()
                raise
        self._received = bytearray()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def insist(self, data: bytes, *, seconds: float = 5.0) -> int:
        """Send as much of it as the other side lets us, for so long; give how much that was."""
        sent, deadline = 0, monotonic() + seconds
        view = memoryview(data)
        while sent < len(data) and (left := deadline - monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                sent += self.socket.send(view[sent : sent + (1 << 18)])
            except OSError:  # Refused, or not taken in time.
                break
        self.socket.settimeout(PATIENCE)
        return sent

    def upgrade(self, path: str, *lines: str) -> Attacker:
        """Open a WebSocket."""
        self.send(handshake(self.host, path, *lines))
        head = self.read_head()
        assert head.startswith("HTTP/1.1 101 "), head
        return self

    def request(self, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request, and read its answer."""
        self.send(request(self.host, path, *lines, method=method) + body)
        return self.read_answer()

    def read_head(self) -> str:
        """Read the head of an answer."""
        while b"\r\n\r\n" not in self._received:
            assert self._receive(), f"no head: {bytes(self._received)!r}"
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        return head.decode("latin-1")

    def read_answer(self) -> Answer:
        """Read an answer that says how long it is."""
        status, *lines = self.read_head().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            assert self._receive(), "the answer broke off"
        body = bytes(self._received[:length])
        del self._received[:length]
        return Answer(int(status.split(" ")[1]), headers, body)

    def read_frame(self) -> Frame | None:
        """Read a frame; None when the connection ends before one."""
        while (frame := self._take_frame()) is None:
            if not self._receive():
                return None
        return frame

    def read_code(self) -> int | None:
        """Read up to the Close frame, and give its code; None when the connection just ends."""
        while (frame := self.read_frame()) is not None:
            if frame.opcode == CLOSE:
                return frame.code
        return None

    def read_all(self) -> bytes:
        """Read up to the end of the connection, which must come soon."""
        self.socket.settimeout(5)
        try:
            while self._receive():
                pass
        except TimeoutError:
            raise AssertionError(f"still connected: {bytes(self._received)!r}") from None
        return bytes(self._received)

    def vanish(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 18)
        except (ConnectionError, ssl.SSLError):
            return False
        self._received += data
        return bool(data)

    def _take_frame(self) -> Frame | None:
        data = self._received
        if len(data) < 2:
            return None
        length, start = data[1], 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        frame = Frame(data[0] & 0xF, bytes(data[start : start + length]))
        del data[: start + length]
        return frame


def request(host: str, path: str, *lines: str, method: str = "GET") -> bytes:
    """Make the head of a request."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def handshake(host: str, path: str, *lines: str, version: int = 13) -> bytes:
    """Make an opening handshake."""
    return request(
        host,
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}",
        f"Sec-WebSocket-Version: {version}",
        *lines,
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Make a client's frame, masked with a key that changes nothing (RFC 6455 §5.3)."""
    return frame_head(opcode, len(payload), fin=fin, rsv=rsv) + bytes(4) + payload


def trusting() -> ssl.SSLContext:
    """Make a TLS context that believes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def make_tls_endpoint(folder: Path) -> str:
    """Make a key and a certificate for this machine, and the endpoint that uses them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    files = f"privateKey={folder}/key.pem:certKey={folder}/certificate.pem"
    return f"ssl:0:{files}:interface=127.0.0.1"


class Vitals:
    """What the kernel says of a process."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}")

    @property
    def memory(self) -> int:
        """Bytes of memory that it holds."""
        return self._status("VmRSS")

    @property
    def peak(self) -> int:
        """The most that it has held since ``forget_peak``, in bytes."""
        return self._status("VmHWM")

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list((self._place / "fd").iterdir()))

    @property
    def cpu(self) -> float:
        """Seconds that it has computed."""
        # Behind its name, which may hold anything, come state, … and as 12th and 13th the times.
        fields = (self._place / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def forget_peak(self) -> None:
        """Begin anew to note how much memory it holds at most."""
        (self._place / "clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        for line in (self._place / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")


class Bystander:
    """A client that minds its own business: it sends, and notes how long each echo takes."""

    def __init__(self, url: str) -> None:
        self.latencies: list[float] = []
        self.failure: Exception | None = None
        self._connection = Attacker(url).upgrade("/echo/")
        self._leaving = Event()
        self._thread = Thread(target=self._talk, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Go in peace."""
        self._leaving.set()
        self._thread.join(PATIENCE)
        self._connection.vanish()

    def _talk(self) -> None:
        number = 0
        try:
            while not self._leaving.is_set():
                number += 1
                start = monotonic()
                self._connection.send(frame(TEXT, str(number).encode()))
                echo = self._connection.read_frame()
                assert echo == Frame(TEXT, str(number).encode()), echo
                self.latencies.append(monotonic() - start)
                sleep(0.02)
        except Exception as error:
            self.failure = error


@dataclass
class Damage:
    """What an attack has cost its victim."""

    #: Bytes of memory at the worst moment, above those before.
    memory: int = 0
    #: Seconds of computing.
    cpu: float = 0
    #: Descriptors that are open still, above those before.
    descriptors: int = 0
    #: How long another client waited for each echo.
    latencies: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.memory / MIB:+.1f} MiB, {self.cpu:.2f} s of CPU, "
            f"{self.descriptors:+d} descriptors, {len(self.latencies)} echoes: "
            f"median {median(self.latencies) * 1e3:.1f} ms, "
            f"worst {max(self.latencies) * 1e3:.0f} ms"
        )

    def assert_bounded(self, *, memory: int = 8 * MIB, cpu: float = 3.0) -> None:
        """Prove that it was not much, and that others were served meanwhile."""
        assert self.memory <= memory, str(self)
        assert self.cpu <= cpu, str(self)
        assert self.descriptors <= 0, str(self)
        assert median(self.latencies) <= MEDIAN_LATENCY, str(self)
        assert max(self.latencies) <= WORST_LATENCY, str(self)


@contextmanager
def watched(daemon: DaemonProcess, *, settle: float = 8.0) -> Iterator[Damage]:
    """Watch a daemon from outside, and serve its other client, while it is attacked.

    Give it so many seconds afterwards to let go of what it holds.
    """
    vitals, damage = Vitals(daemon.pid), Damage()
    descriptors = wait_until_steady(vitals)
    bystander = Bystander(url_of(daemon))
    try:
        sleep(0.1)
        vitals.forget_peak()
        memory, cpu, start = vitals.memory, vitals.cpu, monotonic()
        yield damage
        seconds = monotonic() - start
        damage.cpu = vitals.cpu - cpu
        damage.memory = vitals.peak - memory
        sleep(0.1)
    finally:
        bystander.leave()
    assert bystander.failure is None, bystander.failure
    deadline = monotonic() + settle
    while vitals.descriptors > descriptors and monotonic() < deadline:
        sleep(0.05)
    damage.descriptors = vitals.descriptors - descriptors
    damage.latencies = bystander.latencies
    name = os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition("::")[2]
    _log.info("%s: %s, in %.1f s", name, damage, seconds)


def wait_until_steady(vitals: Vitals) -> int:
    """Wait until nobody of the attack before is left, and give how many descriptors are open."""
    last = vitals.descriptors
    for _ in range(40):
        sleep(0.1)
        if (now := vitals.descriptors) == last:
            break
        last = now
    return last


def url_of(daemon: DaemonProcess) -> str:
    """The address of a daemon's first door, with or without TLS."""
    return daemon.wait_for(r"listening on (https?://\S+)")[1]


def control_url_of(daemon: DaemonProcess) -> str:
    """The address of a daemon's private door."""
    return daemon.wait_for(r"control door at (http://\S+)")[1]


@contextmanager
def running(*args: str, directory: Path = HERE) -> Iterator[DaemonProcess]:
    """Run a daemon with the views that are attacked; prove that it stood and ended in order."""
    with DaemonProcess([*VIEWS, *args], directory=directory) as daemon:
        yield daemon
    log = "\n".join(daemon.log)
    # In order, twistd ends itself by the signal that it was asked with.
    assert daemon.stop() == 0, log
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log
