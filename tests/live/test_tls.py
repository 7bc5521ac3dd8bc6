"""TLS as Twisted's endpoints bring it: everything as without, and modern versions only."""

from __future__ import annotations

import os
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

from pushd.testing.daemon import Daemon
from pushd.testing.loopback import Loopback, LoopbackTransport
from tests.daemon_process import DaemonProcess
from tests.frame_heads import BINARY, CLOSE, PING, TEXT, frame_head
from tests.live.attacker import PATIENCE, Attacker, Frame, frame, handshake, request, trusting
from tests.live.tunnel import through_tls
from tests.live.victim import MIB, assert_cut, make_tls_endpoint, running, url_of, watched


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon that speaks TLS."""
    endpoint = make_tls_endpoint(tmp_path_factory.mktemp("tls"))
    with running("--listen", endpoint) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def url(daemon: DaemonProcess) -> str:
    """Give the address, ``https:``."""
    return url_of(daemon)


def open_socket(url: str, path: str = "/echo/", **options: Any) -> ClientConnection:
    """Open a WebSocket with the client of another."""
    address = urlsplit(url)
    raw = create_connection((address.hostname, address.port), PATIENCE)
    connection: ClientConnection = connect(
        f"ws://{address.netloc}{path}",
        sock=through_tls(raw, trusting(), "localhost"),
        open_timeout=PATIENCE,
        **options,
    )
    return connection


def test_echo(url: str) -> None:
    """Messages of all sizes come back, compressed or not."""
    for compression in (None, "deflate"):
        with open_socket(url, compression=compression, max_size=None) as client:
            for message in ("héllo", b"\0\1\2", os.urandom(70_000), os.urandom(MIB), "x" * MIB):
                client.send(message)
                assert client.recv(PATIENCE) == message
            client.close(4001, "enough")
            assert client.close_code == 4001


def test_back_pressure(url: str) -> None:
    """A reader that takes its time gets all that a view has for it."""
    with open_socket(url, "/patient/", max_queue=4, close_timeout=1) as client:
        for number in range(300):
            assert client.recv(PATIENCE) == bytes(1 << 16)
            if number % 100 == 0:
                sleep(0.5)


def test_too_big(url: str) -> None:
    """1009 reaches the client, though it sends on, and then the connection ends, as without TLS."""
    # It hears so as it reads, or while it still sends.
    with (
        open_socket(url, compression=None) as client,
        pytest.raises(ConnectionClosedError) as caught,
    ):
        client.send(bytes(MIB + 1))
        client.recv(PATIENCE)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009
    with Attacker(url).upgrade("/echo/") as attacker:
        attacker.send(frame_head(BINARY, 16 * MIB, fin=True, rsv=0))
        attacker.insist(bytes(MIB), 16)
        assert attacker.read_code() == 1009
        secure: Any = attacker.socket
        secure.suppress_ragged_eofs = False
        # An end that both sides agree on, of TLS and of TCP: after 5 s it would be a reset.
        assert secure.recv(100) == b""
        assert secure.unwrap().recv(100) == b""


def test_rate(url: str) -> None:
    """1008 reaches a client that floods."""
    with Attacker(url).upgrade("/asleep/") as attacker:
        attacker.insist(frame(PING) * 12_000)
        assert attacker.read_code() == 1008


def test_behind_the_handshake(url: str) -> None:
    """A message right behind the handshake, in the same record, is not lost."""
    with Attacker(url) as attacker:
        attacker.send(handshake(attacker.host, "/echo/") + frame(TEXT, b"early"))
        assert attacker.read_head().startswith("HTTP/1.1 101 ")
        assert attacker.read_frame() == Frame(TEXT, b"early")


def test_in_pieces(url: str) -> None:
    """A message whose bytes come one by one, a record for each, is one message."""
    with Attacker(url).upgrade("/echo/") as attacker:
        for byte in frame(TEXT, b"dribble"):
            attacker.send(bytes([byte]))
        assert attacker.read_frame() == Frame(TEXT, b"dribble")


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Make a context that speaks one version, however old."""
    context = trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = version
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions(url: str, version: ssl.TLSVersion) -> None:
    """TLS 1.0 and 1.1 are refused, by the server."""
    with pytest.raises(ssl.SSLError) as caught:
        Attacker(url, context=only(version))
    assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_modern_versions(url: str, version: ssl.TLSVersion) -> None:
    """TLS 1.2 and 1.3 are spoken."""
    with Attacker(url, context=only(version)) as attacker:
        assert attacker.request("/hits/").status == 200


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1", "h2"]])
def test_no_http2(url: str, offered: list[str]) -> None:
    """HTTP/2, which no WebSocket here can take over, is never agreed on."""
    context = trusting()
    context.set_alpn_protocols(offered)
    with Attacker(url, context=context) as attacker:
        assert isinstance(attacker.socket, ssl.SSLSocket)
        assert attacker.socket.selected_alpn_protocol() == "http/1.1"
        assert attacker.request("/hits/").status == 200


def test_http2_only(url: str) -> None:
    """Who speaks nothing but HTTP/2 is not let in (RFC 7301 §3.2)."""
    context = trusting()
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError):
        Attacker(url, context=context)


def test_origin(url: str) -> None:
    """Our own origin has ``https:``; the same without is a stranger's."""
    own = url.rstrip("/")
    with open_socket(url, origin=own):
        pass
    stranger = own.replace("https:", "http:")
    with pytest.raises(InvalidStatus) as caught, open_socket(url, origin=stranger):
        pass
    assert caught.value.response.status_code == 403


@pytest.mark.parametrize("path", ["/goodbye/", "/echo/"])
def test_clean_close(url: str, path: str) -> None:
    """Both ends of a conversation end with Close, and then TLS says that it is over, too."""
    with Attacker(url).upgrade(path) as attacker:
        secure: Any = attacker.socket
        secure.suppress_ragged_eofs = False
        if path == "/echo/":
            attacker.send(frame(CLOSE, b"\x03\xe8"))
        assert attacker.read_code() == 1000
        if path == "/goodbye/":
            attacker.send(frame(CLOSE, b"\x03\xe8"))
        # Without the goodbye of TLS, this raises; so it does when the connection is cut after 5 s.
        assert secure.recv(100) == b""


def test_no_answer_to_close(daemon: DaemonProcess, url: str) -> None:
    """Who does not answer a Close frame is gone after 5 s."""
    with Attacker(url).upgrade("/goodbye/") as attacker:
        assert attacker.read_code() == 1000
        assert attacker.read_frame() is None
        assert_cut(daemon, attacker, "/goodbye/", 1000)


@pytest.mark.parametrize("path", ["/flood/", "/stream/"])
def test_never_reads(daemon: DaemonProcess, url: str, path: str) -> None:
    """200 MB pushed at one who never reads end with 1013, and the connection 5 s later."""
    with watched(daemon) as damage, Attacker(url, receive_buffer=4096).upgrade(path) as attacker:
        assert_cut(daemon, attacker, path, 1013)
    damage.assert_bounded()


def test_unread_answers(daemon: DaemonProcess, url: str) -> None:
    """A file that is not read is not sent into memory, and who reads late gets it whole."""
    with watched(daemon) as damage, Attacker(url, receive_buffer=4096) as attacker:
        attacker.send(request("x", "/large/"))
        sleep(1)
        assert attacker.read_answer().body == bytes(MIB)
    damage.assert_bounded()


def test_flood_behind_the_end(daemon: DaemonProcess, url: str) -> None:
    """Who sends on after it was refused is gone after 5 s, and costs little until then."""
    with watched(daemon) as damage, Attacker(url).upgrade("/echo/") as attacker:
        attacker.send(frame(TEXT, b"\xff"))
        attacker.insist(frame(BINARY, bytes(MIB)), 400)
        assert_cut(daemon, attacker, "/echo/", 1007)
    damage.assert_bounded(cpu=8)


def test_nonsense(daemon: DaemonProcess, url: str) -> None:
    """What is no TLS is dropped, without a word in the log."""
    address = urlsplit(url).hostname, urlsplit(url).port
    before = len(daemon.log)
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(1000), b"\x16\x03\x01\xff\xff"):
        with create_connection(address, PATIENCE) as client:
            client.sendall(data)
            client.shutdown(1)
            while client.recv(1000):
                pass
    # What is said of somebody who comes later is said later.
    with Attacker(url) as visitor:
        assert visitor.request("/behind-the-nonsense/").status == 404
    daemon.wait_for("/behind-the-nonsense/")
    assert not [line for line in daemon.log[before:] if "Error" in line]


def test_unfinished_handshakes(daemon: DaemonProcess, url: str) -> None:
    """Hundreds who begin TLS and go no further are borne, and disturb nobody."""
    address = urlsplit(url).hostname, urlsplit(url).port
    with watched(daemon) as damage:
        clients = [create_connection(address, PATIENCE) for _ in range(300)]
        for client in clients:
            client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        sleep(1)
        for client in clients:
            client.close()
    # OpenSSL takes its part for each.
    damage.assert_bounded(memory=300 * 256 * 1024)


def test_handshakes(daemon: DaemonProcess, url: str) -> None:
    """Clients that come, agree on keys and go leave nothing behind."""
    context = trusting()
    with watched(daemon) as damage:
        for _ in range(150):
            Attacker(url, context=context).vanish()
    damage.assert_bounded(memory=16 * MIB, cpu=4)


class Silent(Protocol):
    """A client that says nothing."""


def test_unfinished_handshake_ends(tmp_path: Path) -> None:
    """20 s are for TLS and a request together; told in memory, where time is free."""
    make_tls_endpoint(tmp_path)
    daemon, loopback = Daemon(), Loopback()
    with warnings.catch_warnings():
        # Twisted's own way to hand a certificate on is one that pyOpenSSL would rather not have.
        warnings.simplefilter("ignore", DeprecationWarning)
        options = twisted_ssl.PrivateCertificate.loadPEM(
            (tmp_path / "key.pem").read_bytes() + (tmp_path / "certificate.pem").read_bytes()
        ).options()
        options.getContext()
    door = daemon.clock.tcpServers[0][1]
    factory = TLSMemoryBIOFactory(options, False, door, daemon.clock)
    for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        transport = loopback.connect(factory, Silent())
        transport.write(sent)
        loopback.run()
        daemon.advance(19.9)
        loopback.run()
        assert not lost(transport)
        daemon.advance(0.1)
        loopback.run()
        assert lost(transport)
        assert daemon.pending_calls == []


def lost(transport: LoopbackTransport) -> bool:
    """Whether a connection in memory is gone."""
    return not transport.connected
