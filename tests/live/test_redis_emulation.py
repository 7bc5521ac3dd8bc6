"""Commands of Centrifuge clients that come to another node than their stream, over a real Redis."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

from tests.support.daemon_process import DaemonProcess
from tests.support.redis_server import RedisServer

# Timeout of single steps, in seconds.
PATIENCE = 60.0


def connect(daemon: DaemonProcess) -> HTTPConnection:
    """Make a connection to the public port."""
    return HTTPConnection(urlsplit(daemon.url).netloc, timeout=PATIENCE)


def send(daemon: DaemonProcess, session: dict[str, str], *commands: object) -> tuple[int, bytes]:
    """Send commands for a session to a daemon; return status and body."""
    with closing(connect(daemon)) as connection:
        data = "\n".join(map(json.dumps, commands))
        connection.request("POST", "/emulation", json.dumps({**session, "data": data}))
        answer = connection.getresponse()
        return answer.status, answer.read()


def await_channels(redis: RedisServer, count: int) -> None:
    """Wait until a number of nodes are subscribed to the messages for them."""
    deadline = monotonic() + PATIENCE
    while len(redis.ask("PUBSUB", "CHANNELS", "*!node:*")) < count:
        assert monotonic() < deadline
        sleep(0.01)


def test_sessions(tmp_path: Path) -> None:
    """All nodes answer alike, and log alike, for sessions that go on, are over, and never were."""
    with RedisServer() as redis, ExitStack() as stack:
        options = ["--centrifuge", "on", "--broker", redis.url]
        daemons = [DaemonProcess(options, directory=tmp_path) for _ in range(2)]
        for daemon in daemons:
            stack.enter_context(daemon)
        await_channels(redis, len(daemons))
        with closing(connect(daemons[0])) as connection:
            connection.request("POST", "/connection/http_stream", '{"id":1,"connect":{}}')
            stream = connection.getresponse()
            reply = json.loads(stream.readline())["connect"]
            session = {name: reply[name] for name in ("session", "node")}
            for id, daemon in enumerate(daemons, 2):
                assert send(daemon, session, {"id": id, "ping": {}}) == (204, b"")
                assert json.loads(stream.readline())["id"] == id
            stream.close()
        daemons[0].wait_for(r"closed 1006 after .* by peer")
        for gone in (session, {**session, "session": "0"}, {**session, "node": "elsewhere"}):
            answers = [send(daemon, gone, {}) for daemon in daemons]
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        for daemon in daemons:
            daemon.wait_for(r"POST /emulation 404 .*: the session is over, or never was")
