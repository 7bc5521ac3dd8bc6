"""The tables of docs/centrifuge.md about moving from Centrifugo and back, row by row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pushd.access.origins import Origins
from pushd.topics.history import Retention
from pushd.topics.rules import Rule, Rules
from tests.support.centrifuge_client import PATH, CentrifugeTestCase, Client
from tests.support.keyring import secret_keys, sign

_ROOT = Path(__file__).parents[3]

# Where what a row says is checked: the text of its first cell, and a test here or in another file.
_CHECKS = {
    "`client.token.hmac_secret_key`": "tests/options/test_parsers.py::test_secret",
    "RSA, ECDSA and JWKS": "tests/access/test_keys.py::test_kinds",
    "namespaces: `ns:channel`": "test_namespaces",
    "`history_size`, `history_ttl`": "test_history",
    "`force_recovery`, `force_positioning`": "test_recovery",
    "`presence`, `join_leave`": "test_presence",
    "`allow_subscribe_for_client`": "test_permissions",
    "`allow_publish_for_client`": "test_permissions",
    "`allow_publish_for_subscriber`": "test_permissions",
    "`allow_history_for_…`, `allow_presence_for_…`": "test_presence",
    "`user_subscribe_to_personal`": "tests/api/centrifuge/test_dependencies.py::test_personal",
    "channels of some users: `chat#42,43`": "test_names",
    "`client.channel_limit`": "tests/api/centrifuge/test_channels.py::test_limit",
    "`client.queue_max_size`": "tests/api/centrifuge/test_connection.py::test_slow",
    "`stale_close_delay`, `expired_close_delay`, `ping_interval` of `client`": "test_times",
    "`websocket`, `sse`, `http_stream`, `uni_…` with `.enabled`": "test_transports",
    "`….handler_prefix`, `emulation.handler_prefix`": "test_transports",
    "`client.allowed_origins`": "test_origins",
    "proxies (connect, subscribe, publish)": (
        "tests/api/centrifuge/test_channels.py::test_token_and_authorizer"
    ),
    "the RPC proxy": "tests/api/centrifuge/test_procedures.py",
    "HTTP API at `/api`, `http_api.key`": "tests/api/centrifuge/test_http_api.py::test_key",
    "`prometheus.enabled`, `health.enabled`": "tests/api/operator/test_health.py::test_metrics",
    "the Redis engine": "tests/sdk/test_python.py::test_two_nodes",
    "names of channels are any text": "test_names",
    (
        "a subscription is recoverable and positioned if it asks for that, or its namespace says so"
    ): "test_recovery",
    "what was missed is in the reply to `subscribe`": "test_recovery",
    "an anonymous user counts once in `num_users`": "test_presence",
    "`publish` with `skip_history`": "tests/api/centrifuge/test_http_api.py::test_mistakes",
    "`subscribe` of the HTTP API": "test_api",
    "delta compression": "test_recovery",
    "WebSockets are not compressed unless told to": (
        "tests/service/lifecycle/test_reload.py::test_compression"
    ),
    "`ns:channel` without a rule": "test_namespaces",
    "the claims `subscribe` and `publish` in tokens": "test_permissions",
    "a publication by `POST /topics/NAME`": "test_api",
    "clients of pushd's own: `pushd.v1`, SSE, long polls": "test_api",
}


class TableTests(CentrifugeTestCase):
    """The tables are those that are checked."""

    def test_rows(self) -> None:
        """Each row has a check, and each check a row and a test."""
        text = (_ROOT / "docs/centrifuge.md").read_text()
        rows: list[str] = []
        for heading in ("From Centrifugo", "Back to Centrifugo"):
            section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
            rows += re.findall(r"^\| (.+?) \|", section, re.MULTILINE)
        self.assertEqual({*rows} - {"in Centrifugo", "in pushd"}, set(_CHECKS))
        for check in _CHECKS.values():
            file, _, name = check.rpartition("::") if "/" in check else ("", "", check)
            path = _ROOT / file if file else Path(__file__)
            self.assertIn(f"def {name}(" if name.startswith("test_") else "", path.read_text())


class MovingTests(CentrifugeTestCase):
    """What the rows say."""

    def user(self, **claims: Any) -> Client:
        """Connect a client with a token."""
        client = self.open()
        client.connect(token=sign({"sub": "ann", **claims}))
        return client

    def post(self, path: str, body: Any) -> int:
        """Send JSON to the control port; return the status."""
        headers = {"Content-Type": "application/json"}
        return self.control("POST", path, json.dumps(body).encode(), headers).status

    def test_namespaces(self) -> None:
        """A rule stands for a namespace; a channel of another one is like all others."""
        self.start(rules=Rules([Rule(match="ns:*", publish="anyone"), Rule(match="**")]))
        client = self.connect()
        for channel, code in (("ns:a", None), ("other:a", 103)):
            client.ask("subscribe", channel=channel)
            reply = client.tell("publish", channel=channel, data=1)
            self.assertEqual(reply.get("error", {}).get("code"), code)

    def test_history(self) -> None:
        """Size and age are those of the daemon, or of a rule."""
        rules = Rules([Rule(match="ns:*", history_size=1, history_ttl=5), Rule(match="**")])
        self.start(rules=rules, retention=Retention(size=2, ttl=10))
        client = self.connect()
        for channel in ("ns:a", "a"):
            client.ask("subscribe", channel=channel)
            for _ in range(3):
                self.post("/api/publish", {"channel": channel, "data": 1})
        for seconds, counts in ((0, [1, 2]), (6, [0, 2]), (5, [0, 0])):
            self.daemon.advance(seconds)
            pages = [client.ask("history", channel=one, limit=-1) for one in ("ns:a", "a")]
            self.assertEqual([len(page["publications"]) for page in pages], counts)

    def test_recovery(self) -> None:
        """All subscriptions resume; what they have missed comes after the reply, and whole."""
        client = self.connect()
        began = client.ask("subscribe", channel="a", delta="fossil")
        self.assertTrue(began["recoverable"] and began["positioned"])
        self.assertNotIn("delta", began)
        self.post("/api/publish", {"channel": "a", "data": 1})
        position = {"epoch": began["epoch"], "offset": 0, "recover": True}
        again = self.connect()
        result = again.ask("subscribe", channel="a", **position)
        self.assertTrue(result["recovered"])
        self.assertNotIn("publications", result)
        self.assertEqual([push["pub"]["data"] for push in again.pushes], [1])

    def test_presence(self) -> None:
        """Presence and history are for all that may subscribe; connections without user count."""
        self.start(rules=Rules([Rule(match="**", presence=True)]))
        clients = [self.connect(), self.connect()]
        for client in clients:
            client.ask("subscribe", channel="a")
        self.daemon.advance(0.2)
        counts = {"num_clients": 2, "num_users": 2}
        self.assertEqual(clients[0].ask("presence_stats", channel="a"), counts)
        self.assertEqual(len([1 for push in clients[0].pushes if "join" in push]), 2)
        self.assertIn("publications", clients[1].ask("history", channel="a", limit=1))

    def test_permissions(self) -> None:
        """With keys, rules and claims permit; who may subscribe may not publish for that."""
        rules = [
            Rule(match="open", subscribe="anyone"),
            Rule(match="all", publish="anyone", subscribe="anyone"),
            Rule(match="**"),
        ]
        self.start(rules=Rules(rules), token_keys=secret_keys())
        plain, claiming = self.user(), self.user(subscribe=["x"], publish=["open", "x"])
        plain.ask("subscribe", channel="open")
        self.assertEqual(plain.error("publish", channel="open", data=1), 103)
        self.assertEqual(plain.error("subscribe", channel="x"), 103)
        self.assertEqual(plain.ask("publish", channel="all", data=1), {})
        claiming.ask("subscribe", channel="x")
        for channel in ("open", "x"):
            self.assertEqual(claiming.ask("publish", channel=channel, data=1), {})

    def test_names(self) -> None:
        """Names are those of topics."""
        client = self.connect()
        for name in ("chat#42,43", "$private", "a b", "#ann", "é", ""):
            self.assertEqual(client.error("subscribe", channel=name), 102, name)
        client.ask("subscribe", channel="A/b-c_d.e:9")

    def test_times(self) -> None:
        """15 seconds to connect, 25 between pings, and 30 to bring a fresh token."""
        self.start(token_keys=secret_keys())
        silent, client = self.open(), self.open()
        result = client.connect(token=sign({"sub": "ann", "exp": 4}))
        self.assertEqual(result["ping"], 25)
        self.daemon.advance(15)
        self.assertEqual(silent.browser.closing and silent.browser.closing.code, 3502)
        self.daemon.advance(10)
        client.send({})
        self.daemon.advance(7)
        self.assertIsNone(client.browser.closing)
        self.daemon.advance(3)
        self.assertEqual(client.browser.closing and client.browser.closing.code, 3005)

    def test_transports(self) -> None:
        """All are served, at a path that can be chosen."""
        names = ["websocket", "sse", "http_stream", "uni_websocket", "uni_sse", "uni_http_stream"]
        for settings, prefix in (({}, "/connection"), ({"centrifuge_path": "/p/live"}, "/p/live")):
            self.start(**settings)
            emulation = f"{prefix.rpartition('/')[0]}/emulation"
            for path in (*(f"{prefix}/{name}" for name in names), emulation):
                answer = self.daemon.request("PUT", path)
                self.assertNotEqual(answer and answer.status, 404, path)
            other = self.daemon.request("GET", f"{prefix}/other")
            self.assertEqual(other and other.status, 404)

    def test_origins(self) -> None:
        """Pages of other origins may connect if they are named."""
        page = "https://page.example"
        for origins, opens in ((Origins(()), False), (Origins((page,)), True)):
            self.start(origins=origins)
            browser = self.daemon.connect(PATH, origin=page)
            self.assertEqual(browser.opened, opens)

    def test_api(self) -> None:
        """Both ways to publish do the same, for all clients; nothing subscribes them."""
        client = self.connect()
        client.ask("subscribe", channel="a")
        own = self.daemon.connect("/topics/a?format=json", subprotocols=["pushd.v1"])
        self.assertEqual(self.post("/api/publish", {"channel": "a", "data": {"x": 1}}), 200)
        self.assertEqual(self.post("/topics/a", {"x": 1}), 200)
        pushes = [push["pub"] for push in client.pushes]
        self.assertEqual(pushes, [{"data": {"x": 1}, "offset": n} for n in (1, 2)])
        heard = [json.loads(message) for message in own.messages[1:]]
        self.assertEqual([one["data"] for one in heard], [{"x": 1}, {"x": 1}])
        self.assertEqual(self.post("/api/subscribe", {"user": "ann", "channel": "a"}), 404)
