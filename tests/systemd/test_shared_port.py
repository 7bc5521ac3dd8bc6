"""Several services that share the public port, as docs/operations.md describes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.live.raw_client import RawClient
from tests.support.fences import find_fences
from tests.support.systemd_machine import ROOT
from tests.support.systemd_unit import PUBLIC, Unit, fetch, run, wait_until
from tests.systemd.__main__ import DOCUMENT

INSTANCES = [Unit("pushd@8081.service"), Unit("pushd@8082.service")]

# So many that chance would give all of them to one of two processes once in a trillion times.
CONNECTIONS = 40


@pytest.fixture(scope="module", autouse=True)
def instances(service: Unit) -> Iterator[None]:
    """Start two instances in place of the one service, with the commands of the document."""
    blocks = [body for _, kind, body in find_fences(DOCUMENT.read_text()) if kind == "sh"]
    (block,) = [body for body in blocks if "pushd@8082" in body]
    run("bash", "-e", "-c", block, cwd=ROOT)
    yield
    names = [one.name for one in INSTANCES]
    run("systemctl", "stop", *names, *(re.sub("service$", "socket", name) for name in names))


def test_share(service: Unit) -> None:
    """The kernel distributes connections among the processes; each has its own control port."""
    assert service.pid == 0
    clients = [RawClient(PUBLIC).upgrade("/echo/") for _ in range(CONNECTIONS)]
    counts = Counter(
        {
            port: len(json.loads(fetch(f"http://127.0.0.1:{port}/connections").body)["connections"])
            for port in (8081, 8082)
        }
    )
    for client in clients:
        client.socket.close()
    assert counts.total() == CONNECTIONS
    assert all(counts.values())


def kept(port: int) -> str:
    """Return the last id of a topic, from the process with this control port."""
    found: str = json.loads(fetch(f"http://127.0.0.1:{port}/topics/kept").body)["id"]
    return found


def test_one_stops() -> None:
    """One instance restarts, then the other is killed: each keeps its own topics on the disk."""
    first, second = INSTANCES
    for port in (8081, 8082):
        fetch(f"http://127.0.0.1:{port}/topics/kept", "POST", b"one")
    ids = [kept(port) for port in (8081, 8082)]
    assert ids[0] != ids[1]
    pid = second.pid
    first.restart()
    assert second.pid == pid
    # By now more than a second has passed, so the publication is on the disk of the other, too.
    run("systemctl", "kill", "--signal=KILL", second.name)
    assert all(fetch(f"{PUBLIC}hello/").status == 200 for _ in range(CONNECTIONS))
    wait_until(lambda: second.pid not in (0, pid), "the second, again")
    assert [kept(port) for port in (8081, 8082)] == ids
