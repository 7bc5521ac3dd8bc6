"""The life of a service that is configured as docs/operations.md says."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time

from tests.live.raw_client import TIMEOUT, RawClient, frame, request, trusting
from tests.support.frame_heads import TEXT
from tests.support.keyring import SECRET, token
from tests.support.systemd_unit import CONTROL, PUBLIC, Unit, fetch, run, wait_until
from tests.systemd.conftest import CONFIG, deploy, renew
from tests.systemd.load import restart_under_load

TLS = "https://127.0.0.1:443/"

# Open when the service stops.
CONNECTIONS = 50

CONFIG_FILE = Path("/etc/pushd/pushd.toml")


@contextmanager
def open_echo(url: str = PUBLIC) -> Iterator[RawClient]:
    """Open a WebSocket to the view that sends back every message."""
    with RawClient(url) as client:
        yield client.upgrade("/echo/")


def assert_open(client: RawClient) -> None:
    """A WebSocket still works."""
    client.send(frame(TEXT, b"still open"))
    received = client.read_frame()
    assert received is not None
    assert received.payload == b"still open"


def serial_number() -> int:
    """Return the serial number of the certificate that a new connection gets."""
    with (
        socket.create_connection(("127.0.0.1", 443), TIMEOUT) as plain,
        trusting().wrap_socket(plain) as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    pem = ssl.DER_cert_to_PEM_cert(certificate)
    shown = run("openssl", "x509", "-noout", "-serial", "-in", "/dev/stdin", stdin=pem).stdout
    return int(shown.removeprefix("serial="), 16)


def test_status(service: Unit) -> None:
    """The status has the number of connections to the public port."""
    assert wait_until(lambda: service.status == "serving 0 connections", "no connection")
    with open_echo(), open_echo():
        wait_until(lambda: service.status == "serving 2 connections", "two connections")
        assert '"serving 2 connections"' in run("systemctl", "status", service.name).stdout


def test_journal(service: Unit) -> None:
    """With ``--log-format json`` the journal has the fields of each line as JSON."""
    with open_echo() as client:
        assert_open(client)
    closed = wait_until(lambda: service.logged("closed"), "the line of the end")[-1]
    assert closed["transport"] == "websocket"
    assert (closed["path"], closed["messages_in"], closed["messages_out"]) == ("/echo/", 1, 1)
    assert closed["logger"].startswith("pushd.")


def test_priorities(service: Unit) -> None:
    """``journalctl -p`` finds lines by their level."""
    options = Path("/etc/pushd/pushd.toml")
    text = options.read_text()
    options.write_text(f"{text}\nthreads = 65\n")
    try:
        run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", service.name)
        needs_restart = "threads changed from 64 to 65, which needs a restart"
        wait_until(lambda: service.logged("reloaded", needs_restart), "the line of a reload")
    finally:
        options.write_text(text)
    all_lines, warnings = service.journal(), service.journal("--priority", "warning")
    assert [line for line in warnings if needs_restart in line]
    for line in all_lines:
        if line.startswith('{"time"'):
            assert (line in warnings) == (json.loads(line)["level"] not in ("debug", "info"))


def test_environment(service: Unit) -> None:
    """Options are taken from a file that only root can read."""
    assert "drain = 1  # PUSHD_DRAIN" in service.journal()


def test_token(service: Unit) -> None:
    """The key that systemd passes to the service is the one that tokens are verified with."""
    assert fetch(f"{PUBLIC}topics/private?wait=0").status == 401
    bearer = token(subscribe=["private"], exp=time() + 60)
    allowed = f"Authorization: Bearer {bearer}"
    assert fetch(f"{PUBLIC}topics/private?wait=0", "GET", b"", allowed).status == 200
    assert Path("/etc/pushd/token-key").stat().st_mode & 0o777 == 0o600


def test_redis(service: Unit) -> None:
    """Publications go through Redis, whose socket is open to a group of the service's."""
    answer = fetch(f"{CONTROL}topics/kept", "POST", b"one")
    assert answer.status == 200
    stored = run("redis-cli", "-s", "/run/redis/redis-server.sock", "keys", "*kept*").stdout
    assert "kept" in stored
    found = json.loads(fetch(f"{CONTROL}topics/kept").body)
    assert found["id"] == json.loads(answer.body)["id"]


def test_tls(service: Unit) -> None:
    """WebSockets are encrypted with a key that only a group of the service's can read."""
    with open_echo(TLS) as client:
        assert_open(client)


def test_renewed_certificate(service: Unit, lineage: Path) -> None:
    """The hook of docs/deploying.md puts a renewed certificate into use; nobody is cut."""
    with open_echo(TLS) as client:
        old = serial_number()
        new = renew(lineage)
        assert serial_number() == old
        done = deploy(lineage)
        assert done.returncode == 0, done.stdout
        wait_until(lambda: serial_number() == new, "the new certificate")
        assert_open(client)


def test_broken_certificate(service: Unit, lineage: Path) -> None:
    """A certificate that is not of the key is refused with one line; the old one stays in use."""
    with open_echo(TLS) as client:
        old, pid = serial_number(), service.pid
        key = (lineage / "privkey.pem").read_bytes()
        renew(lineage)
        (lineage / "privkey.pem").write_bytes(key)
        assert deploy(lineage).returncode == 0
        wait_until(lambda: service.logged("not_reloaded", "not that of the private key"), "it")
        wait_until(lambda: service.status.endswith("; the last reload was refused"), "the status")
        assert serial_number() == old
        assert service.pid == pid
        assert_open(client)
        new = renew(lineage)
        assert deploy(lineage).returncode == 0
        wait_until(lambda: serial_number() == new, "the new certificate")


def test_reload(service: Unit) -> None:
    """A reload puts the options of the file in force, without a new process."""
    pid = service.pid
    with open_echo() as client:
        CONFIG_FILE.write_text(f"{CONFIG}max-rate = 77\n")
        service.reload()
        wait_until(lambda: service.logged("reloaded", "max-rate changed from 1000 to 77"), "it")
        assert_open(client)
    assert service.pid == pid


def test_broken_file(service: Unit) -> None:
    """With a mistake in the file the log and the status say so, and nothing changes."""
    pid = service.pid
    with open_echo() as client:
        CONFIG_FILE.write_text(f"{CONFIG}max-rate = 'many'\n")
        service.reload()
        wait_until(lambda: service.logged("not_reloaded", "max-rate"), "the mistake")
        wait_until(lambda: service.status.endswith("; the last reload was refused"), "the status")
        assert service.show("ActiveState")["ActiveState"] == "active"
        assert_open(client)
    assert service.pid == pid
    CONFIG_FILE.write_text(CONFIG)
    service.reload()
    wait_until(lambda: "refused" not in service.status, "the status")


def test_restart(service: Unit) -> None:
    """A restart under load refuses no request: new connections wait in the socket."""
    pid = service.pid
    restart_under_load(service)
    assert service.pid not in (0, pid)


def test_watchdog(service: Unit) -> None:
    """A view that blocks the reactor is in the log, and the service is started again."""
    pid = service.pid
    with RawClient(PUBLIC) as client:
        client.send(request(client.host, "/block/"))
        wait_until(lambda: "blocking" in "".join(service.journal()), "the view")
        # It waits in the socket until there is a new process.
        assert fetch(f"{PUBLIC}hello/").status == 200
    assert service.pid not in (0, pid)
    assert int(service.show("NRestarts")["NRestarts"]) == 1
    lines = service.journal()
    assert [line for line in lines if "Watchdog timeout" in line]
    # Python's own handler of SIGABRT names the line that was running.
    assert [line for line in lines if 'site_views.py", line' in line and "in block" in line]


def test_stop(service: Unit) -> None:
    """A stop closes all connections within --drain and a little more, and is a success."""
    clients = [RawClient(PUBLIC).upgrade("/echo/") for _ in range(CONNECTIONS)]
    began = monotonic()
    run("systemctl", "stop", "--no-block", "pushd.socket", service.name)
    for client in clients:
        assert client.read_code() == 1001
        client.socket.close()
    wait_until(lambda: service.show("ActiveState")["ActiveState"] == "inactive", "the end")
    # --drain is 1; the rest is for a busy machine.
    assert monotonic() - began < 10
    state = service.show("Result", "ExecMainStatus", "ActiveState")
    assert state == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}


def test_activation(service: Unit) -> None:
    """If only the socket is open, the first connection starts the service."""
    run("systemctl", "start", "pushd.socket")
    assert service.pid == 0
    assert fetch(PUBLIC).status == 200
    assert service.pid != 0


def test_secret_is_not_logged(service: Unit) -> None:
    """The journal has no key."""
    assert not [line for line in service.journal() if SECRET.decode() in line]
