"""Ways to connect to Redis: TLS, passwords, Sentinel; fatal misconfigurations; a shared port."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest

from tests.support.daemon_process import DaemonProcess
from tests.support.held_port import held_port
from tests.support.peer import certificate_file
from tests.support.redis_server import RedisServer

# Timeout of single steps, in seconds.
PATIENCE = 120.0

# Part of what a Sentinel says about a master of which it knows one replica.
REPLICA = b"num-slaves\r\n$1\r\n1\r\n"

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")


def ask(address: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Send a request, and return the status and the answer."""
    connection = HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def run(broker: str, folder: Path, *args: str) -> DaemonProcess:
    """Make a daemon over a Redis, to be started."""
    return DaemonProcess(["--broker", broker, *CONTROL, *args], directory=folder, patience=PATIENCE)


def control(daemon: DaemonProcess) -> str:
    """Return the address of its control port."""
    return urlsplit(daemon.wait_for(r"control port listening on (http://\S+)")[1]).netloc


@pytest.fixture
def port() -> Iterator[int]:
    """Reserve a port."""
    with held_port() as port:
        yield port


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline
        sleep(0.1)


def test_tls_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Pushd works over TLS as a user with only the rights that the documentation asks for."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(certificate_file())
    args = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    args += ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)]
    document = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    asked = document[document.index("The ACL of pushd's Redis user") :].split("\n\n")[0]
    commands = "auth select info ping script|load evalsha eval scan subscribe unsubscribe publish"
    commands += " time get set del pexpire hmget hset hincrby xadd xlen xrange xtrim"
    for command in commands.split():
        assert f"`{command.upper().replace('|', ' ')}`" in asked, command
    rights = ["~pushd:*", "&pushd:*", *(f"+{command}" for command in commands.split())]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with RedisServer(args) as server:
        server.ask("ACL", "SETUSER", "pushd", "on", ">s3cret", *rights)
        url = f"rediss://pushd:s3cret@localhost:{port}/0"
        with run(url, tmp_path) as daemon:
            daemon.wait_for("connected to Redis at rediss://pushd:.*@localhost:")
            address = control(daemon)
            status, said = ask(address, "POST", "/topics/t", b"x")
            assert (status, json.loads(said)["subscribers"]) == (200, 0)
            assert ask(address, "GET", "/topics")[0] == 200
            assert not [line for line in daemon.log if "s3cret" in line]


def test_unsuitable(tmp_path: Path) -> None:
    """A misconfiguration ends the daemon with one line, which does not show the password."""
    with RedisServer(["--requirepass", "s3cret"]) as server, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        for url, reason in [
            (f"unix://{server.path}", "a password is required"),
            (f"unix://:wr0ng@{server.path}", "wrong user or password"),
            (f"unix://:s3cret@{server.path}?db=99", "out of range"),
            ("redis://me:s3cret@localhost:x/0", "must be memory, redis://"),
        ]:
            daemon = run(url, tmp_path)
            daemon.start()
            assert daemon.wait() == 1
            (line,) = daemon.log
            assert line.startswith("pushd: --broker ")
            assert reason in line
            assert "s3cret" not in line
            assert "wr0ng" not in line


def test_sentinel(tmp_path: Path) -> None:
    """When the master dies, its replica takes over, and topics get new epochs."""
    with (
        held_port() as one,
        held_port() as other,
        held_port() as watch,
        RedisServer(port=one) as first,
        RedisServer(port=other) as second,
    ):
        second.ask("REPLICAOF", "127.0.0.1", one)
        until(lambda: b"master_link_status:up" in second.ask("INFO", "replication"))
        (tmp_path / "sentinel.conf").write_text(
            f"port {watch}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor main 127.0.0.1 {one} 1\n"
            # A slow master must not be declared down.
            "sentinel down-after-milliseconds main 600000\n"
            "sentinel failover-timeout main 3000\n"
        )
        command = ["redis-server", str(tmp_path / "sentinel.conf"), "--sentinel"]
        sentinel = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with run(f"redis+sentinel://127.0.0.1:{watch}/main", tmp_path) as daemon:
                daemon.wait_for("connected to Redis at")
                address = control(daemon)
                status, before = ask(address, "POST", "/topics/t", b"x")
                assert status == 200
                # The Sentinel must know the replica before the master dies.
                until(lambda: REPLICA in ask_sentinel(watch, "SENTINEL master main"))
                first.kill()
                until(lambda: ask(address, "POST", "/topics/t", b"y")[0] == 503)
                ask_sentinel(watch, "SENTINEL SET main down-after-milliseconds 2000")
                until(lambda: ask(address, "POST", "/topics/t", b"z")[0] == 200)
                assert b"role:master" in second.ask("INFO", "replication")
                status, after = ask(address, "GET", "/topics/t")
                epochs = [json.loads(said)["id"].partition(":")[0] for said in (before, after)]
                assert epochs[0] != epochs[1]
        finally:
            sentinel.kill()
            sentinel.wait()


def ask_sentinel(port: int, question: str) -> bytes:
    """Send a command to a Sentinel, and return the first data of its answer."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(question.encode() + b"\r\n")
        return connection.recv(1 << 16)


def test_one_port(tmp_path: Path, port: int) -> None:
    """Two daemons on one port share the connections, and have the same topics."""
    listen = f"reuseport:{port}:interface=127.0.0.1"
    with RedisServer() as server:
        one, two = (run(server.url, tmp_path, "--listen", listen) for _ in range(2))
        with one, two:
            for daemon in (one, two):
                daemon.wait_for("connected to Redis at")
            assert one.url == two.url
            public = urlsplit(one.url).netloc
            for _ in range(50):
                assert ask(public, "GET", "/")[0] == 200
            for daemon in (one, two):
                daemon.wait_for(r"GET / 200")
            status, said = ask(control(one), "POST", "/topics/t", b"x")
            assert status == 200
            id = json.loads(said)["id"]
            after = id.replace(":1", ":0")
            for _ in range(10):
                status, said = ask(public, "GET", f"/topics/t?after={after}&wait=0")
                assert json.loads(said)["id"] == id
