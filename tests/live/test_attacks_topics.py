"""Attacks on topics: over Redis, with tokens, and on the control port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from os import urandom
from pathlib import Path
from socket import AF_UNIX, SHUT_RDWR, socket
from threading import Thread
from time import monotonic, sleep

import hiredis
import pytest

from tests.live.attacked_daemon import MIB, control_url_of, measured, run_daemon, url_of
from tests.live.process_status import ProcessStatus
from tests.live.raw_client import TIMEOUT, RawClient, handshake, request
from tests.support.daemon_process import DaemonProcess
from tests.support.keyring import SECRET, sign
from tests.support.redis_server import RedisServer

# Offers compression.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"

CONTROL = ("--control", "tcp:0:interface=127.0.0.1")

# An expiry in the year 2096.
NEVER = 4_000_000_000


@pytest.fixture(scope="module")
def daemon() -> Iterator[DaemonProcess]:
    """Run a daemon with a control port and default limits."""
    with run_daemon(*CONTROL) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def redis_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Run a daemon that keeps its topics in Redis and asks for tokens."""
    key: Path = tmp_path_factory.mktemp("keys") / "key"
    key.write_bytes(SECRET)
    with (
        RedisServer() as redis,
        run_daemon("--broker", redis.url, "--token-key", str(key), *CONTROL) as daemon,
    ):
        yield daemon


def test_malformed_subject(redis_daemon: DaemonProcess) -> None:
    """A token with half a surrogate pair is refused, and does not stop others from publishing."""
    good, bad = (
        sign({"sub": subject, "exp": NEVER, "publish": ["**"], "subscribe": ["**"]})
        for subject in ("ann", "\udc00")
    )
    with RawClient(url_of(redis_daemon)) as client:

        def publish(token: str, size: int) -> int:
            key = "Idempotency-Key: k"
            lines = f"Authorization: Bearer {token}", key, f"Content-Length: {size}"
            body = b"x" * size
            return client.request("/topics/a", *lines, method="POST", body=body).status

        # As much as may be on its way to Redis.
        assert {publish(bad, MIB) for _ in range(70)} == {401}
        assert client.request(f"/topics/a?wait=0&token={bad}").status == 401
        assert publish(good, 1) == 200
    with RawClient(control_url_of(redis_daemon)) as operator:
        assert operator.request("/connections").status == 200


def test_idempotency_key_like_ours(redis_daemon: DaemonProcess) -> None:
    """An Idempotency-Key that looks like one of pushd's keys in Redis is not taken for one."""
    with RawClient(control_url_of(redis_daemon)) as client:
        for key in ("x}:topic", "}:history", "{a}:topic", "pushd:{b}:topic"):
            lines = f"Idempotency-Key: {key}", "Content-Length: 1"
            answer = client.request("/topics/t", *lines, method="POST", body=b"x")
            assert answer.status == 200, answer
        answer = client.request("/topics")
        assert answer.status == 200, answer
        names = [topic["topic"] for topic in json.loads(answer.body)["topics"]]
        assert set(names) <= {"a", "t"}


class HostileRedis(Thread):
    """A Redis whose epochs contain line breaks, and that answers nothing else that is right."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.path = folder / "redis.sock"
        self._listening = socket(AF_UNIX)
        self._listening.bind(str(self.path))
        self._listening.listen()

    def run(self) -> None:
        """Serve every connection until the socket is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                Thread(target=self._serve, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listening.shutdown(SHUT_RDWR)
        self._listening.close()

    def _serve(self, connection: socket) -> None:
        reader = hiredis.Reader()
        with connection, suppress(OSError):
            while data := connection.recv(1 << 16):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    connection.sendall(self._answer(*command))

    def _answer(self, name: bytes, *args: bytes) -> bytes:
        if name == b"INFO":
            info = b"redis_version:7.0.0\r\nrun_id:a\r\nloading:0\r\nrole:master\r\n"
            return b"$%d\r\n%b\r\n" % (len(info), info)
        if name == b"SUBSCRIBE":
            return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(args[0]), args[0])
        if name == b"EVALSHA":
            epoch = b"e\r\ndata: forged\r\n\r\nid: "
            return b"*5\r\n$%d\r\n%b\r\n$1\r\n0\r\n:0\r\n$1\r\n0\r\n*0\r\n" % (len(epoch), epoch)
        return b"+OK\r\n"


def test_hostile_redis(tmp_path: Path) -> None:
    """An epoch with line breaks never reaches an event stream."""
    redis = HostileRedis(tmp_path)
    redis.start()
    try:
        with run_daemon("--broker", f"unix://{redis.path}", *CONTROL) as daemon:
            daemon.wait_for("connected to Redis")
            with RawClient(url_of(daemon)) as client, RawClient(url_of(daemon)) as poll:
                client.send(request(client.host, "/topics/a", "Accept: text/event-stream"))
                # The subscriber's read fails, and ends the stream.
                daemon.wait_for("returned an error for topic a")
                assert poll.request("/topics/a?wait=0").status in (200, 503)
                client.socket.settimeout(2)
                with suppress(OSError):
                    client._receive()
                assert b"forged" not in client._received
    finally:
        redis.close()


def test_schedules(daemon: DaemonProcess) -> None:
    """Scheduled publications take a part of a core only, however many are asked for."""
    with RawClient(control_url_of(daemon)) as client:
        with measured(daemon) as cost:
            statuses = []
            for _ in range(1050):
                path = "/topics/often?every=0.01&count=1000000"
                answer = client.request(path, "Content-Length: 1", method="POST", body=b"x")
                statuses.append(answer.status)
                if answer.status == 503:
                    assert b"5000 a second" in answer.body
                    assert "retry-after" in answer.headers
            sleep(3)
        for one in json.loads(client.request("/schedules").body)["schedules"]:
            client.request(f"/schedules/{one['schedule']}", method="DELETE")
    assert statuses == [202] * 50 + [503] * 1000
    cost.assert_limited(memory=24 * MIB, cpu=6)


def test_batch_of_nothing(daemon: DaemonProcess) -> None:
    """A batch of millions of objects is refused before they are made."""
    objects = b"{}," * ((16 * MIB - 100) // 3)
    strings = objects.replace(b"{}", b'""')
    with RawClient(control_url_of(daemon)) as client, measured(daemon) as cost:
        for parts in (objects, strings):
            body = b'{"publications":[%b0]}' % parts
            lines = (f"Content-Length: {len(body)}",)
            answer = client.request("/publish", *lines, method="POST", body=body)
            assert answer.status == 413, answer
    # The body, as it arrives, as bytes, and without its strings.
    cost.assert_limited(memory=96 * MIB)
    assert cost.worst <= 0.5, str(cost)


def test_subscribers_that_stop_reading(daemon: DaemonProcess) -> None:
    """Hundreds that read nothing are cut off while others are served, and their memory is freed."""
    status = ProcessStatus(daemon.pid)
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(RawClient(url_of(daemon), receive_buffer=4096))
            if number % 2:
                client.upgrade("/topics/flood")
            else:
                client.send(request(client.host, "/topics/flood", "Accept: text/event-stream"))
                assert "200 OK" in client.read_head()
        operator = stack.enter_context(RawClient(control_url_of(daemon)))
        descriptors = status.descriptors
        with measured(daemon) as published:
            for _ in range(20):
                data = b"x" * 700_000
                lines = (f"Content-Length: {len(data)}",)
                answer = operator.request("/topics/flood", *lines, method="POST", body=data)
                assert answer.status == 200
        with measured(daemon) as cut:
            deadline = monotonic() + TIMEOUT
            while status.descriptors > descriptors - 295 and monotonic() < deadline:
                sleep(0.1)
        assert status.descriptors <= descriptors - 295
    assert cut.worst <= 0.25, str(cut)
    assert published.memory <= 300 * MIB, str(published)


def test_many_resume(daemon: DaemonProcess) -> None:
    """Subscribers that resume with compression take turns, and what all need is compressed once."""
    with RawClient(control_url_of(daemon)) as operator:
        for _ in range(20):
            data = urandom(50_000).hex().encode()
            lines = (f"Content-Length: {len(data)}",)
            answer = operator.request("/topics/long", *lines, method="POST", body=data)
        epoch = json.loads(answer.body)["id"].partition(":")[0]
    with measured(daemon) as cost, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(url_of(daemon))) for _ in range(40)]
        for client in clients:
            client.send(handshake(client.host, f"/topics/long?after={epoch}:0", DEFLATE))
        for client in clients:
            assert client.read_head().startswith("HTTP/1.1 101 ")
            for _ in range(20):
                assert client.read_frame() is not None
    # To compress for each would take three seconds.
    cost.assert_limited(memory=64 * MIB, cpu=1.5)
    assert cost.worst <= 0.25, str(cost)


def test_unread_line_feeds(daemon: DaemonProcess) -> None:
    """An event of a million lines, seven times as large as its data, waits once for all clients."""
    with measured(daemon) as cost, ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(RawClient(url_of(daemon), receive_buffer=4096))
            client.send(request(client.host, "/topics/lines", "Accept: text/event-stream"))
            assert "200 OK" in client.read_head()
        operator = stack.enter_context(RawClient(control_url_of(daemon)))
        for data in (b"x" * (MIB // 2), b"\n" * MIB, b"x" * (MIB // 2), b"\n" * MIB):
            lines = (f"Content-Length: {len(data)}",)
            answer = operator.request("/topics/lines", *lines, method="POST", body=data)
            assert answer.status == 200
    # For each what may wait, and for all together the history and two events.
    cost.assert_limited(memory=20 * MIB + 24 * MIB)
