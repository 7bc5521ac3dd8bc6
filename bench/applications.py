"""The workloads of ASGI applications: the same application on every server.

The page, the echo and the handshake are plain ASGI; the second echo and the group are Channels'.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from bench.crowd import Crowd, make_request
from bench.load import run_load
from bench.readings import Readings, scaled
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

_CLIENTS = 10
_WARM, _PAGES = 200, 3000
_BODY = b"Hello, world!\n"

_SUBSCRIBERS = 1000

# Few, as a group of Channels takes long.
_WARM_GROUP, _TO_GROUP = 3, 12
_WARM_TOPIC, _TO_TOPIC = 20, 80


def run_page(server: Server, scale: float) -> Mapping[str, float]:
    """A1: ten clients; each asks for a page, and again once it is complete."""
    request, left = make_request("GET /"), 0

    def again(head: bytes, body: bytes) -> bytes | None:
        nonlocal left
        if body != _BODY:
            raise Trouble(f"not the page: {body[-300:]!r}")
        left -= 1
        return request if left >= 0 else None

    def ask(crowd: Crowd, pages: int) -> None:
        nonlocal left
        left = max(0, pages - _CLIENTS)
        crowd.send(request)
        crowd.take(left + _CLIENTS, again)

    with Crowd(server.port, _CLIENTS) as crowd:
        ask(crowd, scaled(_WARM, scale))
        pages = max(_CLIENTS, scaled(_PAGES, scale))
        began, cpu = time.monotonic(), server.cpu()
        ask(crowd, pages)
        return {
            "a1.cpu": (server.cpu() - cpu) / pages,
            "a1.rate": pages / (time.monotonic() - began),
        }


def run_echo(server: Server, scale: float) -> Mapping[str, float]:
    """A2: a hundred clients send messages, and get them back."""
    return _echo(server, scale, "a2.cpu", "/echo/", each=200)


def run_consumer(server: Server, scale: float) -> Mapping[str, float]:
    """A3: the same with a consumer of Channels."""
    return _echo(server, scale, "a3.cpu", "/consumer/", each=100)


def _echo(server: Server, scale: float, key: str, path: str, *, each: int) -> Mapping[str, float]:
    seen = Readings(server)
    result = run_load(
        [
            *("echo", "--path", path, "--port", str(server.port)),
            *("--clients", f"{scaled(100, scale)}", "--each", str(each), "--warm", "20"),
        ],
        seen.look,
    )
    return {key: seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


def run_handshake(server: Server, scale: float) -> Mapping[str, float]:
    """A4: handshake, then close."""
    seen = Readings(server)
    result = run_load(
        [
            *("handshake", "--path", "/echo/", "--port", str(server.port)),
            *("--total", f"{scaled(2000, scale)}", "--warm", f"{scaled(300, scale)}"),
        ],
        seen.look,
    )
    return {"a4.cpu": seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


def run_group(server: Server, scale: float) -> Mapping[str, float]:
    """A5: a consumer publishes to a group of Channels, one by one."""
    return _fan_out(server, scale, "a5.cpu", "", _WARM_GROUP, _TO_GROUP)


def run_topic(server: Server, scale: float) -> Mapping[str, float]:
    """A6: a consumer publishes to a topic of pushd, and then another one to the group."""
    topic = _fan_out(server, scale, "cpu", "-topic", _WARM_TOPIC, _TO_TOPIC)
    group = _fan_out(server, scale, "cpu", "", _WARM_GROUP, _TO_GROUP)
    return {"a6.cpu": topic["cpu"], "a6.share": topic["cpu"] / group["cpu"], "busy": topic["busy"]}


def _fan_out(
    server: Server, scale: float, key: str, kind: str, warm: int, times: int
) -> Mapping[str, float]:
    seen = Readings(server)
    result = run_load(
        [
            *("fanout", "--port", str(server.port)),
            *("--path", f"/subscribe{kind}/", "--publish", f"/publish{kind}/"),
            *("--subscribers", f"{scaled(_SUBSCRIBERS, scale)}", "--burst", "1"),
            *("--times", str(times), "--warm", str(warm)),
        ],
        seen.look,
    )
    return {key: seen.cpu("start", "end") / result["units"], "busy": result["busy"]}


def run_idle(server: Server, scale: float) -> Mapping[str, float]:
    """A7: idle connections, until each has been pinged."""
    seen = Readings(server)
    result = run_load(
        [
            *("idle", "--path", "/echo/", "--port", str(server.port)),
            *("--connections", f"{scaled(2000, scale)}", "--rate", "200"),
            *("--pinged", str(int(server.rival.pings))),
        ],
        seen.look,
    )
    return {"a7.memory": seen.memory("empty", "full") / result["units"]}


_ALL = frozenset({"pushd-asgi", "daphne", "uvicorn", "hypercorn"})

_OURS, _FAMILY = "pushd-asgi", "ASGI applications"

_AHEAD, _NEAR = (0.5, "daphne"), (1.3, "uvicorn")

APPLICATIONS: tuple[Workload, ...] = (
    Workload(
        "a1",
        "a page of an ASGI application, 10 clients",
        run_page,
        (
            Measure("a1.cpu", "A1 hello, world: CPU per page", "µs", relations=(_AHEAD,)),
            Measure("a1.rate", "A1 hello, world: pages per second", "/s"),
        ),
        rivals=_ALL,
        family=_FAMILY,
    ),
    Workload(
        "a2",
        "echo of an ASGI application, 100 clients",
        run_echo,
        (Measure("a2.cpu", "A2 echo of 128 B: CPU per message", "µs", relations=(_AHEAD, _NEAR)),),
        rivals=_ALL,
        family=_FAMILY,
    ),
    Workload(
        "a3",
        "echo of a consumer of Channels, 100 clients",
        run_consumer,
        (Measure("a3.cpu", "A3 echo by a consumer of Channels: CPU per message", "µs"),),
        rivals=_ALL,
        family=_FAMILY,
    ),
    Workload(
        "a4",
        "handshake with an ASGI application, and close",
        run_handshake,
        (
            Measure(
                "a4.cpu",
                "A4 handshake and close: CPU per connection",
                "µs",
                relations=(_AHEAD, _NEAR),
            ),
        ),
        rivals=_ALL,
        family=_FAMILY,
    ),
    Workload(
        "a5",
        "a group of Channels, 1,000 subscribers",
        run_group,
        (
            Measure(
                "a5.cpu",
                "A5 group of Channels, 1,000 subscribers: CPU per delivery",
                "µs",
                relations=(_AHEAD,),
            ),
        ),
        rivals=_ALL,
        family=_FAMILY,
    ),
    Workload(
        "a6",
        "a topic of pushd from the same application, 1,000 subscribers",
        run_topic,
        (
            Measure("a6.cpu", "A6 topic of pushd, 1,000 subscribers: CPU per delivery", "µs"),
            Measure("a6.share", "A6 topic of pushd: as a multiple of the group", "x", 0.1),
        ),
        rivals=frozenset({_OURS}),
        family=_FAMILY,
    ),
    Workload(
        "a7",
        "2,000 idle connections to an ASGI application",
        run_idle,
        (
            Measure(
                "a7.memory",
                "A7 2,000 idle: memory per connection",
                "KiB",
                relations=(_AHEAD,),
            ),
        ),
        rivals=_ALL,
        family=_FAMILY,
        together=True,
    ),
)
