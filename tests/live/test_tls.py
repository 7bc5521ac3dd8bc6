"""TLS with Twisted's endpoints: all works as without TLS, with modern versions only."""

from __future__ import annotations

import os
import signal
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import pytest
from twisted.internet import ssl as twisted_ssl
from twisted.internet.protocol import Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pushd.testing import Daemon
from pushd.testing.memory_network import MemoryNetwork, MemoryTransport
from tests.live.attacked_daemon import (
    MIB,
    assert_cut,
    assert_never_read,
    measured,
    run_daemon,
    url_of,
)
from tests.live.raw_client import TIMEOUT, Frame, RawClient, frame, handshake, request, trusting
from tests.live.tls_tunnel import wrap_in_tls
from tests.support.certificate import make_tls_endpoint, write_certificate
from tests.support.daemon_process import DaemonProcess
from tests.support.frame_heads import BINARY, CLOSE, PING, TEXT, frame_head


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon with TLS."""
    endpoint = make_tls_endpoint(tmp_path_factory.mktemp("tls"))
    with run_daemon("--listen", endpoint) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def url(daemon: DaemonProcess) -> str:
    """Return its ``https:`` URL."""
    return url_of(daemon)


def open_socket(url: str, path: str = "/echo/", **options: Any) -> ClientConnection:
    """Open a WebSocket with the client of ``websockets``."""
    address = urlsplit(url)
    raw = create_connection((address.hostname, address.port), TIMEOUT)
    connection: ClientConnection = connect(
        f"ws://{address.netloc}{path}",
        sock=wrap_in_tls(raw, trusting(), "localhost"),
        open_timeout=TIMEOUT,
        **options,
    )
    return connection


def test_echo(url: str) -> None:
    """Messages of all sizes are echoed, compressed or not."""
    for compression in (None, "deflate"):
        with open_socket(url, compression=compression, max_size=None) as client:
            for message in ("héllo", b"\0\1\2", os.urandom(70_000), os.urandom(MIB), "x" * MIB):
                client.send(message)
                assert client.recv(TIMEOUT) == message
            client.close(4001, "enough")
            assert client.close_code == 4001


def test_back_pressure(url: str) -> None:
    """A slow client receives all that a view sends."""
    with open_socket(url, "/patient/", max_queue=4, close_timeout=1) as client:
        for number in range(300):
            assert client.recv(TIMEOUT) == bytes(1 << 16)
            if number % 100 == 0:
                sleep(0.5)


def test_too_big(url: str) -> None:
    """A client that keeps sending receives 1009, and the connection ends in order."""
    # Raised while it reads, or while it still sends.
    with (
        open_socket(url, compression=None) as client,
        pytest.raises(ConnectionClosedError) as caught,
    ):
        client.send(bytes(MIB + 1))
        client.recv(TIMEOUT)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
    with RawClient(url).upgrade("/echo/") as raw:
        raw.send(frame_head(BINARY, 16 * MIB, fin=True, rsv=0))
        raw.send_until_refused(bytes(MIB), 16)
        assert raw.read_code() == 1009
        secure: Any = raw.socket
        secure.suppress_ragged_eofs = False
        # Both sides close TLS and TCP in order: after 5 s it would be a reset.
        assert secure.recv(100) == b""
        assert secure.unwrap().recv(100) == b""


def test_rate(url: str) -> None:
    """A client that sends too fast receives 1008."""
    with RawClient(url).upgrade("/asleep/") as client:
        client.send_until_refused(frame(PING) * 12_000)
        assert client.read_code() == 1008


def test_behind_the_handshake(url: str) -> None:
    """A message in the same TLS record as the handshake is delivered."""
    with RawClient(url) as client:
        client.send(handshake(client.host, "/echo/") + frame(TEXT, b"early"))
        assert client.read_head().startswith("HTTP/1.1 101 ")
        assert client.read_frame() == Frame(TEXT, b"early")


def test_in_pieces(url: str) -> None:
    """A message with each byte in a record of its own is delivered."""
    with RawClient(url).upgrade("/echo/") as client:
        for byte in frame(TEXT, b"dribble"):
            client.send(bytes([byte]))
        assert client.read_frame() == Frame(TEXT, b"dribble")


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a context that supports one version of TLS."""
    context = trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions(url: str, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are refused by the server."""
    with pytest.raises(ssl.SSLError) as caught:
        RawClient(url, context=only(version))
    assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_versions(url: str, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 are accepted."""
    with RawClient(url, context=only(version)) as client:
        assert client.request("/hits/").status == 200


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.0", "http/1.1", "h2"], "http/1.1"),
        (["http/1.0"], "http/1.0"),
        ([], None),
    ],
)
def test_no_http2(url: str, offered: list[str], selected: str | None) -> None:
    """HTTP/2 is never negotiated: WebSockets need HTTP/1.1, which is spoken without ALPN, too."""
    context = trusting()
    if offered:
        context.set_alpn_protocols(offered)
    with RawClient(url, context=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == selected
        assert client.request("/hits/").status == 200


def test_http2_only(url: str) -> None:
    """A client that offers only HTTP/2 is refused (RFC 7301 §3.2)."""
    context = trusting()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        RawClient(url, context=context)


def test_origin(url: str) -> None:
    """The daemon's own origin has the scheme ``https:``; with ``http:`` it is another origin."""
    own = url.rstrip("/")
    with open_socket(url, origin=own):
        pass
    client = own.replace("https:", "http:")
    with pytest.raises(InvalidStatus) as caught, open_socket(url, origin=client):
        pass
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/goodbye/", "/echo/"])
def test_clean_close(url: str, path: str) -> None:
    """A WebSocket ends with Close both ways, then TLS ends with close_notify."""
    with RawClient(url).upgrade(path) as client:
        secure: Any = client.socket
        secure.suppress_ragged_eofs = False
        if path == "/echo/":
            client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.read_code() == 1000
        if path == "/goodbye/":
            client.send(frame(CLOSE, b"\x03\xe8"))
        # Raises without close_notify, also if the connection is dropped after 5 s.
        assert secure.recv(100) == b""


def test_no_answer_to_close(daemon: DaemonProcess, url: str) -> None:
    """A client that does not answer a Close frame is dropped after 5 s."""
    with RawClient(url).upgrade("/goodbye/") as client:
        assert client.read_code() == 1000
        assert client.read_frame() is None
        assert_cut(daemon, client, "/goodbye/", 1000)


@pytest.mark.parametrize("path", ["/flood/", "/stream/"])
def test_never_reads(daemon: DaemonProcess, url: str, path: str) -> None:
    """200 MB sent to a client that does not read: closed with 1013, and dropped 5 s later."""
    with measured(daemon) as cost, RawClient(url, receive_buffer=4096).upgrade(path) as client:
        assert_never_read(daemon, client, path)
    cost.assert_limited()


def test_unread_answers(daemon: DaemonProcess, url: str) -> None:
    """A file is not buffered for a client that does not read, and arrives whole if it does."""
    with measured(daemon) as cost, RawClient(url, receive_buffer=4096) as client:
        client.send(request("x", "/large/"))
        sleep(1)
        assert client.read_answer().body == bytes(MIB)
    cost.assert_limited()


def test_flood_after_refusal(daemon: DaemonProcess, url: str) -> None:
    """A client that keeps sending after a refusal is dropped after 5 s, and costs little."""
    with measured(daemon) as cost, RawClient(url).upgrade("/echo/") as client:
        client.send(frame(TEXT, b"\xff"))
        client.send_until_refused(frame(BINARY, bytes(MIB)), 400)
        assert_cut(daemon, client, "/echo/", 1007)
    cost.assert_limited(cpu=8)


def test_no_tls(daemon: DaemonProcess, url: str) -> None:
    """Bytes that are not TLS are dropped, without a line in the log."""
    address = urlsplit(url).hostname, urlsplit(url).port
    before = len(daemon.log)
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(1000), b"\x16\x03\x01\xff\xff"):
        with create_connection(address, TIMEOUT) as client:
            client.sendall(data)
            client.shutdown(1)
            while client.recv(1000):
                pass
    # By the time of this line, the earlier connections have been handled.
    with RawClient(url) as another:
        assert another.request("/after-the-others/").status == 404
    daemon.wait_for("/after-the-others/")
    assert not [line for line in daemon.log[before:] if "Error" in line]


def test_unfinished_handshakes(daemon: DaemonProcess, url: str) -> None:
    """Hundreds of unfinished TLS handshakes disturb no other client."""
    address = urlsplit(url).hostname, urlsplit(url).port
    with measured(daemon) as cost:
        clients = [create_connection(address, TIMEOUT) for _ in range(300)]
        for client in clients:
            client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        sleep(1)
        for client in clients:
            client.close()
    # OpenSSL's buffers for each connection are included.
    cost.assert_limited(memory=300 * 256 * 1024)


def test_handshakes(daemon: DaemonProcess, url: str) -> None:
    """Complete TLS handshakes leave nothing behind."""
    context = trusting()
    with measured(daemon) as cost:
        for _ in range(150):
            RawClient(url, context=context).reset()
    cost.assert_limited(memory=16 * MIB, cpu=4)


class SilentClient(Protocol):
    """A client that sends nothing."""


def test_unfinished_handshake_ends(tmp_path: Path) -> None:
    """TLS and the request must be complete within 20 s (in memory)."""
    make_tls_endpoint(tmp_path)
    daemon, network = Daemon(), MemoryNetwork()
    with warnings.catch_warnings():
        # pyOpenSSL deprecates how Twisted's PrivateCertificate passes a certificate on.
        warnings.simplefilter("ignore", DeprecationWarning)
        options = twisted_ssl.PrivateCertificate.loadPEM(
            (tmp_path / "key.pem").read_bytes() + (tmp_path / "certificate.pem").read_bytes()
        ).options()
        options.getContext()
    site = daemon.clock.tcpServers[0][1]
    factory = TLSMemoryBIOFactory(options, False, site, daemon.clock)
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        transport = network.connect(factory, SilentClient())
        transport.write(sent)
        network.run()
        daemon.advance(19.9)
        network.run()
        assert not lost(transport)
        daemon.advance(0.1)
        network.run()
        assert lost(transport)
        assert daemon.pending_calls == []


def lost(transport: MemoryTransport) -> bool:
    """Return whether a connection in memory is lost."""
    return not transport.connected


@pytest.mark.parametrize("fast_paths", ["on", "off"])
def test_renewed_certificate(tmp_path: Path, fast_paths: str) -> None:
    """SIGHUP gives new connections the renewed certificate; open ones stay, and no bad one is used.

    That holds for both ports, with OpenSSL at the socket and with Twisted's TLS.
    """
    endpoint = make_tls_endpoint(tmp_path)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["--listen", endpoint, "--control", endpoint, "--fast-paths", fast_paths]
    with run_daemon(*options) as daemon:
        urls = [url_of(daemon), daemon.wait_for(r"control port listening on (https://\S+)")[1]]
        client = trusting()

        def greet(url: str, session: ssl.SSLSession | None = None) -> tuple[bytes, bool]:
            """Return the certificate that a client gets, and whether its session was resumed."""
            address = urlsplit(url)
            with (
                create_connection((address.hostname, address.port), TIMEOUT) as plain,
                client.wrap_socket(plain, session=session) as connection,
            ):
                connection.sendall(request(address.netloc, "/", "Connection: close"))
                while connection.recv(1 << 16):  # With TLS 1.3, the tickets come with the answer.
                    pass
                assert connection.session is not None
                sessions[url] = connection.session
                certificate = connection.getpeercert(binary_form=True)
                return certificate or b"", bool(connection.session_reused)

        sessions: dict[str, ssl.SSLSession] = {}
        with open_socket(urls[0]) as early:
            first = [greet(url) for url in urls]
            old = (first[0][0], True)
            written = key.read_bytes()
            # The key of another certificate.
            write_certificate(key, tmp_path / "other.pem")
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.wait_for("not reloaded: .*the certificate is not that of the private key")
            assert [greet(url, sessions[url]) for url in urls] == [old, old]
            key.unlink()
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.wait_for(r"not reloaded: .*key.pem cannot be read: No such file or directory")
            assert [greet(url, sessions[url]) for url in urls] == [old, old]
            # The same files again: sessions can still be resumed.
            key.write_bytes(written)
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.wait_for("options reloaded")
            assert [greet(url, sessions[url]) for url in urls] == [old, old]
            write_certificate(key, certificate)
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.wait_for("--control .*: new connections get another certificate, which expires")
            new = ssl.PEM_cert_to_DER_cert(certificate.read_text())
            assert [greet(url, sessions[url]) for url in urls] == [(new, False)] * 2
            assert [greet(url, sessions[url]) for url in urls] == [(new, True)] * 2
            early.send("still open")
            assert early.recv(TIMEOUT) == "still open"
