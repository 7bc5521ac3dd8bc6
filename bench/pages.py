"""The workload of pages: those of a WSGI application, one in no time and one of 10 KiB."""

from __future__ import annotations

import time
from collections.abc import Mapping

from bench.crowd import Crowd, make_request
from bench.readings import scaled
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

_CLIENTS = 10
_WARM, _PAGES = 100, 1000

# What browsers send with every request.
_HEADERS = (
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.5",
    "Cookie: sessionid=9xj2vq8k1m7t5c3b; theme=dark",
    "Referer: http://127.0.0.1/",
)


def run_pages(server: Server, scale: float) -> Mapping[str, float]:
    """G1: ten clients; each asks for a page, and again once it is complete."""
    found: dict[str, float] = {}
    for name, path, end in (("hello", "/hello", b"world!\n"), ("page", "/page", b"</html>\n")):
        with Crowd(server.port, _CLIENTS, sleeps=True) as crowd:
            _ask(crowd, path, end, scaled(_WARM, scale))
            pages, began, cpu = scaled(_PAGES, scale), time.monotonic(), server.cpu()
            _ask(crowd, path, end, pages)
            found[f"g1.{name}"] = (server.cpu() - cpu) / pages
            found[f"g1.{name}.rate"] = pages / (time.monotonic() - began)
    return found


def _ask(crowd: Crowd, path: str, end: bytes, pages: int) -> None:
    """Request at least that number of pages."""
    request, left = make_request(f"GET {path}", *_HEADERS), max(0, pages - _CLIENTS)

    def again(head: bytes, body: bytes) -> bytes | None:
        nonlocal left
        if not body.endswith(end):
            raise Trouble(f"not the page: {body[-300:]!r}")
        left -= 1
        return request if left >= 0 else None

    crowd.send(request)
    crowd.take(left + _CLIENTS, again)


PAGES: tuple[Workload, ...] = (
    Workload(
        "g1",
        "pages of a WSGI application, 10 clients",
        run_pages,
        (
            Measure(
                "g1.hello", "G1 hello, world: CPU per page", "µs", relations=((1, "waitress"),)
            ),
            Measure("g1.hello.rate", "G1 hello, world: pages per second", "/s"),
            Measure(
                "g1.page", "G1 template of 10 KiB: CPU per page", "µs", relations=((1, "waitress"),)
            ),
            Measure("g1.page.rate", "G1 template of 10 KiB: pages per second", "/s"),
        ),
        rivals=frozenset({"pushd-wsgi", "waitress", "gunicorn"}),
        family="Pages",
    ),
)
