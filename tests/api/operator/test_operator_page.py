"""The operator's page: its files, their headers, and where they are served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pushd.access import closing
from pushd.access.closing import Closing
from pushd.protocols.http.access_log import _REASONS
from tests.support.topic_clients import TopicTestCase

FOLDER = Path(__file__).parents[3] / "web"
FILES = sorted(path.name for path in (FOLDER / "operator").iterdir())


class OperatorPageTests(TopicTestCase):
    """The control port's ``/``."""

    def test_files(self) -> None:
        """The control port serves the page, and each file that it loads."""
        answer = self.control("GET", "/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"], "text/html; charset=utf-8")
        self.assertEqual(answer.body, (FOLDER / "operator/index.html").read_bytes())
        linked = set(re.findall(r'(?:href|src)="([^"#]+)"', answer.text))
        self.assertIn("operator/page.js", linked)
        for name in linked | {f"operator/{one}" for one in FILES}:
            self.assertEqual(self.control("GET", f"/{name}").status, 200, name)
        self.assertEqual(self.control("HEAD", "/").status, 200)
        self.assertEqual(self.control("POST", "/").status, 405)

    def test_headers(self) -> None:
        """It loads nothing from elsewhere, has no inline script, and is in no frame."""
        headers = self.control("GET", "/").headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
        )
        self.assertEqual(policy["default-src"], "'none'")
        self.assertEqual(policy["script-src"], "'self'")
        for name in ("base-uri", "form-action", "frame-ancestors"):
            self.assertEqual(policy[name], "'none'", name)
        self.assertNotIn("unsafe", headers["Content-Security-Policy"])
        self.assertEqual(headers["X-Frame-Options"], "DENY")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        # With another policy, browsers would send the page's own requests with the Origin "null".
        self.assertEqual(headers["Referrer-Policy"], "same-origin")
        # ``--csp`` is that of the public port's pages.
        self.start(csp="")
        self.assertIn("Content-Security-Policy", self.control("GET", "/").headers)

    def test_nothing_else(self) -> None:
        """The control port serves no other file of the client, and no folder."""
        for path in ("/index.html", "/pushd.js", "/demo/test.js", "/operator/", "/operator/x.js"):
            self.assertEqual(self.control("GET", path).status, 404, path)
        self.assertEqual(self.control("GET", "/operator/../index.html").status, 404)

    def test_off(self) -> None:
        """With ``off`` there is no page; the answer names the option."""
        self.start(control_page="off")
        for path in ("/", "/operator/page.js", "/pushd.css", "/snapshots"):
            answer = self.control("GET", path)
            self.assertEqual(answer.status, 404, path)
            line = "there is no operator's page: --control-page is off\n"
            self.assertEqual(answer.text, line)
        # A health check of HAProxy, unless it is told another path.
        self.assertEqual(self.control("OPTIONS", "/").status, 204)

    def test_public(self) -> None:
        """The public port serves none of it, whatever else it serves."""

        def application(environ: Any, start_response: Any) -> list[bytes]:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"the application's"]

        for settings in ({}, {"demo": False}, {"wsgi": application}):
            self.start({}, **settings)
            for name in FILES:
                for folder in ("/operator/", "/pushd/operator/"):
                    self.assertEqual(self.status(f"{folder}{name}"), 404, name)
            self.assertEqual(self.status("/snapshots"), 404)

    def test_documented_requests(self) -> None:
        """The requests in docs/operator-page.md are answered."""
        commands = re.findall(r"(?m)^curl .*?http://127\.0\.0\.1:8081(/[^' \n]*)", read_docs())
        self.assertGreater(len(commands), 4)
        for path in commands:
            method = "HEAD" if path == "/snapshots" else "GET"
            self.assertEqual(self.control(method, path).status, 200, path)

    def status(self, path: str) -> int:
        """Return the status of a GET to the public port."""
        answer = self.daemon.get(path)
        assert answer is not None
        return answer.status


class OverviewTests(TopicTestCase):
    """What the page knows of the daemon's metrics."""

    script = (FOLDER / "operator/overview.js").read_text()

    def table(self, name: str) -> set[str]:
        """Return the keys of an object in the script."""
        body = self.script.partition(f"const {name} = {{\n")[2].partition("};")[0]
        return set(re.findall(r"(?m)^  (\w+): ", body))

    def test_metrics(self) -> None:
        """It shows metrics that there are, and docs/operator-page.md names the same."""
        shown = set(re.findall(r"\bpushd_\w+", self.script))
        exported = set(re.findall(r"(?m)^# TYPE (\w+) ", self.control("GET", "/metrics").text))
        self.assertEqual(shown - exported, set())
        self.assertEqual(set(re.findall(r"`(pushd_\w+)`", read_docs())), shown)

    def test_labels(self) -> None:
        """It explains every reason of a refusal, and every close code of the daemon's own."""
        self.assertEqual(self.table("REASONS"), set(_REASONS.values()))
        ours = {str(one.code) for one in vars(closing).values() if isinstance(one, Closing)}
        registered = {code for code in ours if int(code) < 3000}
        # And those that Autobahn closes with, and those that stand for a missing Close or code.
        self.assertEqual(
            self.table("CODES"), registered | {"1002", "1005", "1006", "1007", "other"}
        )


def read_docs() -> str:
    """Return the text of the document."""
    return (FOLDER.parent / "docs/operator-page.md").read_text()
