"""Close codes behind nginx and HAProxy, as clients see them.

A proxy that reads the end of TCP right behind a Close frame may end the client's connection before
it has passed the Close on, and a reset makes it drop what it holds. Clients then see 1006.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection
from typing import NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.live.attacked_daemon import url_of
from tests.live.raw_client import trusting
from tests.live.tls_tunnel import wrap_in_tls
from tests.support.certificate import make_tls_endpoint
from tests.support.daemon_process import DaemonProcess
from tests.support.proxies import ECHO_VIEWS, run_proxy

# Seconds after which a test gives up waiting.
TIMEOUT = 60.0

# How often each client tries each violation.
TIMES = 3

LIMITS = ("--max-rate", "20", "--max-message", "10000")

# What a client does, and the code and reason that it must see.
VIOLATIONS = {
    "flood": (1008, "too many messages"),
    "invalid": (1002, "reserved opcode 3"),
    "large": (1009, "message too big"),
}

# A frame with a reserved opcode.
INVALID = b"\x83\x80" + bytes(4)

# Violates a rule with the client "ws" for Node, and prints the code and reason of its close event.
WS = """
const [bundle, url, violation] = process.argv.slice(2);
const { ws: WebSocket } = require(bundle);
const socket = new WebSocket(url);
const violate = {
  flood: () => { for (let count = 0; count < 20000; count++) socket.send("x".repeat(100)); },
  invalid: () => socket._socket.write(Buffer.from([0x83, 0x80, 0, 0, 0, 0])),
  large: () => socket.send("x".repeat(4000000)),
};
socket.on("open", () => violate[violation]());
socket.on("message", () => {});
socket.on("error", () => {});
socket.on("close", (code, reason) => console.log(JSON.stringify([code, reason.toString()])));
"""


class Proxied(NamedTuple):
    """A daemon behind a proxy."""

    url: str
    daemon: DaemonProcess


@pytest.fixture(params=["nginx", "haproxy", "haproxy with send-proxy"], scope="module")
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    """Run a daemon behind each proxy; the last one sends the PROXY protocol."""
    name, _, options = str(request.param).partition(" with ")
    folder = tmp_path_factory.mktemp(name)
    (folder / "views.py").write_text(ECHO_VIEWS)
    listen = "tcp:0:interface=127.0.0.1"
    if options:
        listen = f"haproxy:{listen}"
    args = ["--views", "views:views", "--listen", listen, *LIMITS]
    with DaemonProcess(args, directory=folder) as daemon:
        upstream = daemon.url.split("/")[2]
        with run_proxy(name, upstream, folder, options) as port:
            yield Proxied(f"ws://localhost:{port}/echo/", daemon)


def violate_with_websockets(url: str, violation: str) -> tuple[int, str]:
    """Violate a rule with ``websockets``; return the code and reason that it gets."""
    with connect(url, open_timeout=TIMEOUT, close_timeout=TIMEOUT, max_queue=None) as client:
        try:
            if violation == "flood":
                for _ in range(20_000):
                    client.send("x" * 100)
            elif violation == "large":
                client.send("x" * 4_000_000)
            else:
                client.socket.sendall(INVALID)
            while True:
                client.recv(TIMEOUT)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, closed
            return closed.rcvd.code, closed.rcvd.reason


def violate_with_ws(url: str, violation: str) -> tuple[int, str]:
    """Violate a rule with ``ws``, which comes with Playwright; return its code and reason."""
    playwright = find_spec("playwright")
    assert playwright is not None and playwright.origin is not None
    driver = Path(playwright.origin).parent / "driver"
    done = subprocess.run(
        [driver / "node", "-", driver / "package/lib/utilsBundle.js", url, violation],
        input=WS,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, reason = json.loads(done.stdout)
    return code, reason


@pytest.mark.parametrize("violation", VIOLATIONS)
@pytest.mark.parametrize("violate", [violate_with_websockets, violate_with_ws])
def test_code(
    proxied: Proxied, violate: Callable[[str, str], tuple[int, str]], violation: str
) -> None:
    """A client that violates a rule sees our close code and reason each time."""
    seen = [violate(proxied.url, violation) for _ in range(TIMES)]
    code, reason = VIOLATIONS[violation]
    assert [one for one, _ in seen] == [code] * TIMES
    assert all(reason in given for _, given in seen), seen
    proxied.daemon.wait_for(rf" /echo/ closed {code} after \S+ s by us: .*{reason}")


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_tls_behind_it(tmp_path: Path, version: str) -> None:
    """HAProxy names the client, and passes TLS on: the header comes before it, in any version."""
    (tmp_path / "views.py").write_text(ECHO_VIEWS)
    listen = f"haproxy:{make_tls_endpoint(tmp_path)}"
    args = ["--views", "views:views", "--listen", listen, *LIMITS]
    with DaemonProcess(args, directory=tmp_path) as daemon:
        upstream = url_of(daemon).split("/")[2]
        with run_proxy("haproxy", upstream, tmp_path, version, mode="tcp") as port:
            # The listening socket was open before HAProxy was, and holds the connection until then.
            raw = create_connection(("127.0.0.1", port), TIMEOUT)
            ours = raw.getsockname()[1]
            with connect(
                f"ws://127.0.0.1:{port}/echo/",
                sock=wrap_in_tls(raw, trusting(), "localhost"),
                origin=Origin(f"https://127.0.0.1:{port}"),
                open_timeout=TIMEOUT,
                close_timeout=TIMEOUT,
            ) as client:
                client.send("hello")
                assert client.recv(TIMEOUT) == "hello"
                client.send("x" * 20_000)
                with pytest.raises(ConnectionClosed) as caught:
                    client.recv(TIMEOUT)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1009
            daemon.wait_for(rf"127\.0\.0\.1:{ours} /echo/ closed 1009 after \S+ s by us")
