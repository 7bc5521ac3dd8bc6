"""The WSGI application of the benchmark: a page in no time, and a page of 10 KiB."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from string import Template
from typing import Any

_PAGE = Template("<!doctype html>\n<title>$title</title>\n<table>\n$rows</table>\n</html>\n")
_ROW = Template("<tr><td>$number</td><td>$name</td><td>name$number@example.com</td></tr>\n")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer ``/hello`` with a line, and all else with a page."""
    if environ["PATH_INFO"] == "/hello":
        kind, body = "text/plain", b"Hello, world!\n"
    else:
        rows = [_ROW.substitute(number=one, name=f"Customer {one}") for one in range(145)]
        page = _PAGE.substitute(title="Customers", rows="".join(rows))
        kind, body = "text/html; charset=utf-8", page.encode()
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
