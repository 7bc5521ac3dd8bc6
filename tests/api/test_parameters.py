"""Query parameters that a request does not take, and topics that no browser can ask for."""

from __future__ import annotations

import json

from pushd.access.origins import Origins
from pushd.testing import Answer
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase, V1WebSocketClient

# What each request of the control port takes.
CONTROL = (
    ("GET", "/topics", ("name", "limit", "order")),
    ("GET", "/topics/t", ()),
    ("POST", "/topics/t", ("at", "delay", "every", "count")),
    ("POST", "/publish", ()),
    ("GET", "/connections", ("after", "limit", "transport", "peer", "path", "subject")),
    ("GET", "/connections/1", ()),
    ("DELETE", "/connections/1", ("code", "reason")),
    ("GET", "/schedules", ("limit",)),
    ("GET", "/schedules/SCHEDULE", ()),
    ("DELETE", "/schedules/SCHEDULE", ()),
)


class ParameterTests(TopicTestCase):
    """A parameter that is unknown is refused by name, as it may be a mistake."""

    def assert_unknown(self, answer: Answer, name: str, known: tuple[str, ...]) -> None:
        """Check the refusal: which parameter it was, and which ones there are."""
        value = json.loads(answer.body)
        self.assertEqual((answer.status, value["where"]), (400, name))
        self.assertIn(f"takes {', '.join(known) or 'none'}", value["error"])

    def test_control_port(self) -> None:
        """So it is at the control port, in each request."""
        V1WebSocketClient(self.daemon, "t")
        schedule = json.loads(self.control("POST", "/topics/t?delay=5", b"x").body)["schedule"]
        for method, path, known in CONTROL:
            path = path.replace("SCHEDULE", schedule)
            for name in ("dellay", "token", "Delay"):
                answer = self.control(method, f"{path}?{name}=1", b"x")
                self.assert_unknown(answer, name, known)
        self.assertEqual(self.describe("t")["history"], 0)
        self.assertEqual(self.describe("t")["subscribers"], {"websocket": 1})
        self.daemon.advance(5)
        self.assertEqual(self.describe("t")["history"], 1)

    def test_names(self) -> None:
        """The name is repeated as ASCII, and cut if it is long."""
        for given, shown in (("%00", "\\x00"), ("%ff", "\\ufffd"), ("x" * 200, "x" * 100)):
            for rest in ("", "=", "=1", "&x", "&x=1"):
                answer = self.control("GET", f"/topics/t?{given}{rest}")
                value = json.loads(answer.body)
                self.assertIn(value["where"], (shown, "x") if "x=" in rest else (shown,))

    def test_no_value(self) -> None:
        """A parameter without a value is refused, an unknown one as unknown."""
        for query in ("delay", "every=1&count", "count=2;delay", "&delay&", "dela%79"):
            answer = self.control("POST", f"/topics/t?{query}", b"x")
            value = json.loads(answer.body)
            self.assertEqual((answer.status, value["error"]), (400, "must have a value"), query)
            self.assertIn(value["where"], ("delay", "count"))
        self.assert_unknown(self.control("POST", "/topics/t?x", b"x"), "x", CONTROL[2][2])
        for query in ("?", "?&", "?delay=0&&", ""):
            self.assertLess(self.control("POST", f"/topics/t{query}", b"x").status, 300)

    def test_subscribers(self) -> None:
        """So it is for all transports at the public port."""
        known = ("after", "wait", "token", "heartbeat")
        for headers in ({}, {"Accept": "text/event-stream"}):
            answer = self.daemon.request("GET", "/topics/t?wait=0&lastEventId=e:1", headers)
            assert answer is not None
            self.assert_unknown(answer, "lastEventId", known)
        browser = self.daemon.connect("/topics/t?since=e:1", subprotocols=["pushd.v1"])
        assert browser.refused is not None
        self.assert_unknown(browser.refused, "since", known)
        # Each of these may be given with each transport.
        answer = self.daemon.request("GET", "/topics/t?wait=0&after=e:1&token=x")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_publishers_with_tokens(self) -> None:
        """So it is for a publication with a token, and a page can read why."""
        self.start(token_keys=secret_keys(), origins=Origins(["https://page.example"]))
        path = f"/topics/t?token={token(publish=['t'])}"
        headers = {"Origin": "https://page.example"}
        answer = self.daemon.request("POST", f"{path}&key=k", headers, b"x")
        assert answer is not None
        self.assert_unknown(answer, "key", ("token",))
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "https://page.example")
        answer = self.daemon.request("POST", path, headers, b"x")
        assert answer is not None
        self.assertEqual(answer.status, 200)

    def test_health(self) -> None:
        """Health checks and metrics ignore what a prober appends."""
        for path in ("/healthz", "/readyz", "/metrics"):
            self.assertEqual(self.control("GET", f"{path}?_=1").status, 200)


class DotSegmentTests(TopicTestCase):
    """``.`` and ``..`` as a segment of a topic are refused, as browsers resolve them."""

    PATHS = ("/topics/..", "/topics/a/../b", "/topics/./b", "/topics/%2e%2e", "/topics/a%2F..%2Fb")

    def assert_refused(self, answer: Answer | None) -> None:
        """Check that a response says what is wrong with the topic."""
        assert answer is not None
        value = json.loads(answer.body)
        self.assertEqual((answer.status, value["where"]), (400, "topic"))
        self.assertIn("must not have . or .. as a segment", value["error"])

    def test_transports(self) -> None:
        """No client can subscribe to such a topic."""
        for path in self.PATHS:
            for accept in ("*/*", "text/event-stream"):
                self.assert_refused(self.daemon.request("GET", path, {"Accept": accept}))
            for subprotocols in ([], ["pushd.v1"]):
                self.assert_refused(self.daemon.connect(path, subprotocols=subprotocols).refused)

    def test_publishers(self) -> None:
        """No client can publish to one, with a token for all topics either."""
        for path in self.PATHS:
            self.assert_refused(self.control("POST", path, b"x"))
        self.start(token_keys=secret_keys())
        given = token(publish=["**"], subscribe=["**"])
        for path in self.PATHS:
            self.assert_refused(self.daemon.request("POST", f"{path}?token={given}", {}, b"x"))
