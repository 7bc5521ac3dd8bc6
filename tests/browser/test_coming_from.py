"""docs/from-polling.md: an application beside pushd, behind nginx, and its page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import assert_clean_exit, start_daemon
from tests.support.fences import find_fences
from tests.support.proxies import run_proxy

DOCUMENT = Path(__file__).parents[2] / "docs/from-polling.md"

# The last block of each language is what there is after the change.
BLOCKS = {language: body for _, language, body in find_fences(DOCUMENT.read_text())}

# The rest of the page.
PAGE = f"""<!doctype html>
<title>An order</title>
<p id="status"></p>
<script>
function show({{ status }}) {{
  document.getElementById("status").textContent = status;
}}
</script>
<script type="module">{BLOCKS["js"]}</script>
"""


@contextmanager
def serve_application(names: dict[str, Any]) -> Iterator[str]:
    """Serve the page and the order with another server, in a thread; yield its host and port."""

    class Handler(BaseHTTPRequestHandler):
        """Answers for the document's functions."""

        def do_GET(self) -> None:
            """Send the order, or the page."""
            is_order = self.path == "/orders/7"
            text = json.dumps(names["read_order"](7)) if is_order else PAGE
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if is_order else "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_from_polling(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows the status that there was, and each change."""
    names: dict[str, Any] = {}
    exec(compile(BLOCKS["python"], str(DOCUMENT), "exec"), names)
    with start_daemon(tmp_path) as daemon, serve_application(names) as application:
        control = daemon.wait_for(r"control port listening on (http://\S+)")[1]
        monkeypatch.setenv("PUSHD_CONTROL_URL", control)
        locations = BLOCKS["nginx"].replace("127.0.0.1:8080", daemon.url.split("/")[2])
        with run_proxy("nginx", application, tmp_path, locations=locations) as port:
            page.goto(f"http://localhost:{port}/")
            expect(page.locator("#status")).to_have_text("received")
            for status in ("paid", "shipped"):
                names["set_status"](7, status)
                expect(page.locator("#status")).to_have_text(status)
    assert_clean_exit(daemon)
