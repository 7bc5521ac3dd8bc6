"""The workloads of publishers: what a publication costs without subscribers.

pushd is published to at its control port, Nchan at its publisher locations. aiohttp's handlers do
no more than to read and to answer, so they are the price of the framework.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.load import run_load
from bench.readings import Readings, scaled
from bench.server import Server
from bench.workload import Measure, Workload

# Publications of a batch.
BATCH = 1000

# Lines that a publisher may have sent before it has the answer to the first.
WINDOW = 32


def run_posts(server: Server, scale: float) -> Mapping[str, float]:
    """P1: ten publishers, each of which posts again once it has been answered."""
    return _publish(server, "p1.cpu", "post", each=scaled(500, scale), warm=50)


def run_batches(server: Server, scale: float) -> Mapping[str, float]:
    """P2: batches of a thousand, each publisher's after the answer to its last."""
    batch = ("--batch", f"{BATCH}")
    return _publish(server, "p2.cpu", "batch", *batch, each=scaled(10, scale), warm=2)


def run_streams(server: Server, scale: float) -> Mapping[str, float]:
    """P3: ten publishers send lines over a WebSocket: first one by one, then many in flight."""
    found: dict[str, float] = {}
    for key, window in (("p3.one", 1), ("p3.many", WINDOW)):
        some = ("--window", f"{window}", "--origin", "0")
        result = _publish(server, key, "stream", *some, each=scaled(1000, scale), warm=100)
        found |= {**result, "busy": max(found.get("busy", 0), result["busy"])}
    return found


def _publish(
    server: Server, key: str, path: str, *options: str, each: int, warm: int
) -> Mapping[str, float]:
    seen = Readings(server)
    program = "stream" if path == "stream" else "post"
    result = run_load(
        [
            *(program, "--port", f"{server.control_port}"),
            *("--path", server.rival.paths[path], "--ids", f"{int(server.rival.gives_ids)}"),
            *("--clients", "10", "--each", f"{each}", "--warm", f"{warm}", *options),
        ],
        seen.look,
    )
    return {key: seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


PUBLISHING: tuple[Workload, ...] = (
    Workload(
        "p1",
        "publications, one a request",
        run_posts,
        (
            Measure(
                "p1.cpu", "P1 POST of 128 B, 10 at a time: CPU each", "µs", 60, ((1, "aiohttp"),)
            ),
        ),
        rivals=frozenset({"pushd", "aiohttp", "nchan"}),
        family="Publishing",
    ),
    Workload(
        "p2",
        "publications in batches of 1,000",
        run_batches,
        (Measure("p2.cpu", "P2 batches of 1,000: CPU per publication", "µs", 4),),
        rivals=frozenset({"pushd"}),
        family="Publishing",
    ),
    Workload(
        "p3",
        "publications over a publisher's WebSocket",
        run_streams,
        (
            Measure("p3.one", "P3 a line over a WebSocket, 10 at a time: CPU each", "µs"),
            Measure("p3.many", "P3 lines with 32 in flight: CPU each", "µs", 12),
        ),
        rivals=frozenset({"pushd", "aiohttp", "nchan"}),
        family="Publishing",
    ),
)
