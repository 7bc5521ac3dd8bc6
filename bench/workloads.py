"""The workloads of WebSockets, and the list of all.

Each has the load generator's arguments, and computes its measures.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.applications import APPLICATIONS
from bench.capacity import CAPACITY
from bench.load import run_load
from bench.nodes import NODES
from bench.pages import PAGES
from bench.polls import POLLS
from bench.publishing import PUBLISHING
from bench.readings import Readings, scaled
from bench.sdk import SDK
from bench.secure import SECURE
from bench.server import Server
from bench.streams import STREAMS
from bench.workload import Measure, Workload

# Several source addresses, as one has too few ports for 10,000 connections, and a rehearsal, so
# that the cost of the first connections does not count.
CROWD = ("--sources", "8", "--rate", "4000", "--rehearse", "100")


def run_demo(server: Server, scale: float) -> Mapping[str, float]:
    """W1: thousands of browsers open the demo; each gets ten pushes, half a second apart."""
    seen = Readings(server)
    result = run_load(
        [
            *("demo", "--path", server.rival.paths["demo"]),
            *("--browsers", f"{scaled(4000, scale)}", "--rate", "1000", "--port", str(server.port)),
        ],
        seen.look,
    )
    return {
        "w1.cpu": seen.cpu("start", "end") / result["units"],
        "w1.late": result["p99"],
        "busy": result["busy"],
    }


def run_fanout(server: Server, scale: float) -> Mapping[str, float]:
    """W2: publications to many subscribers, first one by one, then eight in one segment."""
    found: dict[str, float] = {}
    share = server.rival.share
    for key, burst, times in (("w2.one", 1, 80), ("w2.burst", 8, 20)):
        result = run_publications(
            server,
            scaled(1000, scale),
            burst=burst,
            times=scaled(times, share),
            warm=scaled(20, share),
        )
        found[key] = result["delivery"]
        found["busy"] = max(found.get("busy", 0), result["busy"])
    return found


def run_publications(
    server: Server, subscribers: int, *, burst: int, times: int, warm: int, crowd: bool = False
) -> Mapping[str, float]:
    """Publish to N subscribers: CPU per delivery in µs, memory per connection in KiB.

    A ``crowd`` connects from several addresses, after a rehearsal.
    """
    seen = Readings(server)
    paths = server.rival.paths
    result = run_load(
        [
            *("fanout", "--port", str(server.port)),
            *("--path", paths["subscribe"], "--publish", paths["publish"]),
            *("--subscribers", str(subscribers), "--burst", str(burst)),
            *("--times", str(times), "--warm", str(warm)),
            *(CROWD if crowd else ()),
        ],
        seen.look,
    )
    return {
        "delivery": seen.cpu("start", "end") / result["units"],
        "arrival": seen.cpu("empty", "connected") / (subscribers + 1),
        "memory": seen.memory("empty", "connected") / (subscribers + 1),
        "busy": result["busy"],
    }


def run_idle(server: Server, scale: float) -> Mapping[str, float]:
    """W3: thousands of idle subscribers, until each has been pinged."""
    seen = Readings(server)
    result = run_load(
        [
            *("idle", "--path", server.rival.paths["subscribe"], "--port", str(server.port)),
            *("--connections", f"{scaled(5000, scale)}", "--rate", "500"),
            *("--pinged", str(int(server.rival.pings))),
        ],
        seen.look,
    )
    return {"w3.memory": seen.memory("empty", "full") / result["units"]}


def run_handshake(server: Server, scale: float) -> Mapping[str, float]:
    """W4: handshake, then close."""
    seen = Readings(server)
    result = run_load(
        [
            *("handshake", "--path", server.rival.paths["handshake"], "--port", str(server.port)),
            *("--total", f"{scaled(3000, scale * server.rival.share)}"),
            *("--warm", f"{scaled(300, scale * server.rival.share)}"),
        ],
        seen.look,
    )
    return {"w4.cpu": seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


def run_echo(server: Server, scale: float) -> Mapping[str, float]:
    """W5: a hundred clients send messages, and get them back."""
    seen = Readings(server)
    result = run_load(
        [
            *("echo", "--path", server.rival.paths["echo"], "--port", str(server.port)),
            *("--clients", f"{scaled(100, scale)}"),
            *(
                "--each",
                f"{scaled(200, server.rival.share)}",
                "--warm",
                f"{scaled(20, server.rival.share)}",
            ),
        ],
        seen.look,
    )
    return {"w5.cpu": seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


_ALL = frozenset(
    {"pushd", "floor", "autobahn", "websockets", "aiohttp", "picows", "channels", "ws"}
)

WEBSOCKETS: tuple[Workload, ...] = (
    Workload(
        "w1",
        "the demo, 4,000 browsers",
        run_demo,
        (
            Measure(
                "w1.cpu",
                "W1 4,000 browsers: CPU per push, handshakes included",
                "µs",
                75,
                ((0.5, "autobahn"),),
            ),
            Measure("w1.late", "W1 lateness of a push, 99th percentile", "ms", 8),
        ),
        rivals=_ALL,
    ),
    Workload(
        "w2",
        "one topic, 1,000 subscribers",
        run_fanout,
        (
            Measure(
                "w2.one",
                "W2 1,000 subscribers, one by one: CPU per delivery",
                "µs",
                relations=((1.5, "floor"),),
            ),
            Measure(
                "w2.burst",
                "W2 in bursts of 8: CPU per delivery",
                "µs",
                2,
                relations=((1, "floor"),),
            ),
        ),
        rivals=_ALL | {"floor-join", "nchan"},
    ),
    Workload(
        "w3",
        "5,000 idle connections",
        run_idle,
        (Measure("w3.memory", "W3 5,000 idle: memory per connection", "KiB", 10),),
        together=True,
        rivals=_ALL | {"nchan"},
    ),
    Workload(
        "w4",
        "handshake and close",
        run_handshake,
        (Measure("w4.cpu", "W4 handshake and close: CPU per connection", "µs", 190),),
        rivals=_ALL | {"nchan"},
    ),
    Workload(
        "w5",
        "echo, 100 clients",
        run_echo,
        (Measure("w5.cpu", "W5 echo of 128 B, 100 clients: CPU per message", "µs", 20),),
        rivals=_ALL,
    ),
)

WORKLOADS: tuple[Workload, ...] = (
    *WEBSOCKETS,
    *PUBLISHING,
    *STREAMS,
    *POLLS,
    *PAGES,
    *APPLICATIONS,
    *SECURE,
    *SDK,
    *NODES,
    *CAPACITY,
)
