"""``/topics/<topic>`` with tokens: subscribing, publishing, and the end of a token."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from twisted.internet.defer import fail
from twisted.logger import (
    ILogObserver,
    LogEvent,
    capturedLogs,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

from pushd.access.closing import RATE_EXCEEDED, TOKEN_EXPIRED
from pushd.access.origins import Origins
from pushd.access.tokens import TokenKeys
from pushd.errors import Unavailable
from pushd.testing import Answer, Browser
from tests.support.keyring import SECRET, secret_keys, sign, token
from tests.support.topic_clients import TopicTestCase

READER = token("reader", subscribe=["news", "chat/*"])
WRITER = token("writer", publish=["news"])


class TokenTestCase(TopicTestCase):
    def setUp(self) -> None:
        """Start a daemon that asks for tokens."""
        self.start(token_keys=secret_keys())

    def replace_keys(self, keys: TokenKeys) -> None:
        """Put other keys in force, as a reload does."""
        for apply in self.daemon._service.appliers:
            apply(replace(self.daemon.settings, token_keys=keys))

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request that is answered at once."""
        answer = self.daemon.request(method, path, headers, body)
        assert answer is not None
        return answer

    def post(self, given: str | None, body: bytes = b"x", **headers: str) -> Answer:
        """Publish to ``news`` at the public port."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if given is not None:
            named["Authorization"] = f"Bearer {given}"
        return self.ask("POST", "/topics/news", named, body)

    def connect(self, given: str, *, v1: bool = True, topic: str = "news") -> Browser:
        """Subscribe over a WebSocket."""
        offered = ["pushd.v1"] if v1 else []
        return self.daemon.connect(f"/topics/{topic}?token={given}", subprotocols=offered)

    def said(self, answer: Answer) -> Any:
        """Return the JSON of an answer."""
        return json.loads(answer.body)


class SubscribeTests(TokenTestCase):
    """Subscribing with a token."""

    def test_without(self) -> None:
        """Without a token, subscribing is refused with 401 over every transport."""
        for accept in ("*/*", "text/event-stream"):
            answer = self.ask("GET", "/topics/news?wait=0", {"Accept": accept})
            self.assertEqual(answer.status, 401)
            self.assertEqual(answer.headers["WWW-Authenticate"], 'Bearer realm="pushd"')
            self.assertEqual(self.said(answer), {"error": "a token is required", "where": "token"})
        refused = self.daemon.connect("/topics/news").refused
        assert refused is not None
        self.assertEqual(refused.status, 401)
        self.assertEqual(self.said(self.control("GET", "/topics"))["topics"], [])

    def test_with(self) -> None:
        """A token in the header or in the query permits every transport."""
        for path, headers in (
            (f"/topics/news?token={READER}", {}),
            ("/topics/news?", {"Authorization": f"Bearer {READER}"}),
        ):
            answer = self.ask("GET", f"{path}&wait=0", headers)
            self.assertEqual((answer.status, self.said(answer)["publications"]), (200, []))
            connection = self.daemon.open_connection()
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            connection.send(
                f"GET {path} HTTP/1.1\r\nHost: localhost:8080\r\n{head}"
                "Accept: text/event-stream\r\n\r\n".encode()
            )
            self.assertIn(b"event: subscribed", connection.received)
            browser = self.daemon.connect(path, headers=headers)
            self.assertTrue(browser.opened)
            self.publish("news", "x")
            self.assertEqual(browser.messages, ["x"])
            browser.close()
            connection.leave()

    def test_not_allowed(self) -> None:
        """A valid token for other topics is refused with 403."""
        for path in (f"/topics/other?token={READER}", f"/topics/news?token={WRITER}"):
            answer = self.ask("GET", path)
            self.assertEqual(answer.status, 403)
            self.assertIn('error="insufficient_scope"', answer.headers["WWW-Authenticate"])
            self.assertIn("does not permit subscribing to", self.said(answer)["error"])
            refused = self.daemon.connect(path).refused
            assert refused is not None
            self.assertEqual(refused.status, 403)

    def test_bad(self) -> None:
        """An invalid token is refused with 401 and the reason."""
        for bad, why in (
            (sign({"exp": 3600}, SECRET[::-1]), "not signed with any of the keys"),
            (sign({"sub": "x"}), "has no exp"),
            ("x", "malformed"),
            ("", "malformed"),
        ):
            answer = self.ask("GET", f"/topics/news?token={bad}")
            self.assertEqual(answer.status, 401)
            challenge = answer.headers["WWW-Authenticate"]
            self.assertIn('error="invalid_token"', challenge)
            self.assertIn(why, challenge)
            self.assertIn(why, self.said(answer)["error"])

    def test_two(self) -> None:
        """Two tokens are refused with 400."""
        answer = self.ask(
            "GET", f"/topics/news?token={READER}", {"Authorization": f"Bearer {READER}"}
        )
        self.assertEqual(answer.status, 400)
        self.assertIn('error="invalid_request"', answer.headers["WWW-Authenticate"])

    def test_counted(self) -> None:
        """Refusals are counted by status."""
        self.ask("GET", "/topics/news")
        self.ask("GET", f"/topics/other?token={READER}")
        metrics = self.control("GET", "/metrics").text
        self.assertIn('pushd_refused_total{reason="unauthorized"} 1.0', metrics)
        self.assertIn('pushd_refused_total{reason="forbidden"} 1.0', metrics)

    def test_no_keys(self) -> None:
        """Without token keys, tokens are ignored."""
        self.start()
        for headers in ({}, {"Authorization": "Bearer x"}):
            answer = self.ask("GET", "/topics/news?token=x&wait=0", headers)
            self.assertEqual(answer.status, 200)

    def test_keys_replaced(self) -> None:
        """New keys are in force for the next request."""
        self.start(token_keys=TokenKeys())
        self.assertEqual(self.ask("GET", "/topics/news?wait=0").status, 200)
        self.assertEqual(self.post(WRITER).status, 405)
        self.replace_keys(secret_keys())
        self.assertEqual(self.ask("GET", "/topics/news?wait=0").status, 401)
        self.assertEqual(self.post(WRITER).status, 200)


class PublishTests(TokenTestCase):
    """Publishing at the public port."""

    def test_publish(self) -> None:
        """A token that permits it publishes as at the control port."""
        browser = self.connect(READER)
        answer = self.post(WRITER, "tschüß".encode())
        self.assertEqual((answer.status, self.said(answer)["subscribers"]), (200, 1))
        self.post(WRITER, b"\xff", Content_Type="application/octet-stream")
        received = [json.loads(message) for message in browser.messages[2:]]
        self.assertEqual(received[0], {"id": self.said(answer)["id"], "data": "tschüß"})
        self.assertEqual(received[1]["base64"], "/w==")
        answer = self.ask("POST", f"/topics/news?token={WRITER}", None, b"y")
        self.assertEqual(answer.status, 200)

    def test_denied(self) -> None:
        """Without such a token, publishing is refused."""
        for given, status in ((None, 401), ("x", 401), (READER, 403)):
            answer = self.post(given)
            self.assertEqual(answer.status, status)
            self.assertIn("WWW-Authenticate", answer.headers)
        self.assertEqual(self.describe("news")["history"], 0)

    def test_no_keys(self) -> None:
        """Without token keys the public port accepts no publications."""
        self.start()
        answer = self.post(WRITER)
        self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD, OPTIONS"))

    def test_mistakes(self) -> None:
        """Bad requests are refused as at the control port."""
        for answer, where in (
            (self.post(WRITER, b"\xff"), "body"),
            (self.post(WRITER, Idempotency_Key="a b"), "Idempotency-Key"),
            (self.ask("POST", f"/topics/a//b?token={WRITER}", None, b"x"), "topic"),
        ):
            self.assertEqual((answer.status, self.said(answer)["where"]), (400, where))
        for name in ("delay", "every", "count"):
            answer = self.ask("POST", f"/topics/news?token={WRITER}&{name}=1", None, b"x")
            self.assertEqual((answer.status, self.said(answer)["where"]), (400, name))
        answer = self.ask("PUT", f"/topics/news?token={READER}", None, b"x")
        self.assertEqual(
            (answer.status, answer.headers["Allow"]), (405, "GET, HEAD, POST, OPTIONS")
        )

    def test_unavailable(self) -> None:
        """While the broker is unavailable, only the log names it and the reason."""
        why = Unavailable("Redis at redis://10.0.0.5 is full")
        self.patch(self.daemon._service._broker, "publish_all", lambda *_: fail(why))
        self.patch(self.daemon._service._broker, "publish", lambda *_: fail(why))
        with capturedLogs() as events:
            answer = self.post(WRITER)
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "5"))
        self.assertEqual(self.said(answer)["where"], "broker")
        self.assertNotIn("Redis", answer.text)
        [event] = [event for event in events if event.get("event") == "not_published"]
        self.assertEqual((event["topic"], event["error"]), ("news", str(why)))

    def test_idempotency_without_a_name(self) -> None:
        """A token without a subject has idempotency keys of its own."""
        claims = {"exp": 3600, "publish": ["news"]}
        given = [sign(claims), sign(claims | {"exp": 3601})]
        ids = [self.said(self.post(one, Idempotency_Key="k"))["id"] for one in (*given, given[0])]
        self.assertEqual(ids[0], ids[2])
        self.assertNotEqual(ids[0], ids[1])

    def test_idempotency(self) -> None:
        """A repeated key publishes nothing; each subject has its own keys."""
        ids = [
            self.said(self.post(given, Idempotency_Key="k"))["id"]
            for given in (WRITER, WRITER, token("other", publish=["**"]))
        ]
        headers = {"Idempotency-Key": "k"}
        ids.append(self.said(self.control("POST", "/topics/news", b"x", headers))["id"])
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len({*ids}), 3)
        self.assertEqual(self.describe("news")["history"], 3)


class OriginTests(TokenTestCase):
    """Pages of other origins (WHATWG Fetch)."""

    PAGE = "https://page.example"

    def setUp(self) -> None:
        """Allow one other origin."""
        self.start(token_keys=secret_keys(), origins=Origins([self.PAGE]))

    def preflight(self, origin: str) -> Answer:
        """Send a CORS preflight request."""
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        return self.ask("OPTIONS", "/topics/news", headers)

    def test_preflight(self) -> None:
        """A page of an allowed origin may send a token; the preflight needs none."""
        answer = self.preflight(self.PAGE)
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], self.PAGE)
        self.assertEqual(answer.headers["Access-Control-Allow-Methods"], "GET, POST")
        allowed = answer.headers["Access-Control-Allow-Headers"].lower().split(", ")
        for name in ("authorization", "content-type", "idempotency-key", "last-event-id"):
            self.assertIn(name, allowed)
        # Of a request with cookies as well.
        self.assertEqual(answer.headers["Access-Control-Allow-Credentials"], "true")
        self.assertEqual(answer.headers["Vary"].lower(), "origin")

    def test_preflight_of_strangers(self) -> None:
        """A preflight from another origin is refused."""
        answer = self.preflight("https://evil.example")
        self.assertEqual(answer.status, 403)
        self.assertNotIn("Access-Control-Allow-Origin", answer.headers)

    def test_options(self) -> None:
        """OPTIONS that is no preflight gets the allowed methods, without a token as well."""
        answer = self.ask("OPTIONS", "/topics/news")
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.headers["Allow"], "GET, HEAD, POST, OPTIONS")

    def test_head(self) -> None:
        """HEAD needs the token that a GET needs."""
        self.assertEqual(self.ask("HEAD", f"/topics/news?token={READER}").status, 200)
        self.assertEqual(self.ask("HEAD", "/topics/news").status, 401)

    def test_token_does_not_help(self) -> None:
        """A valid token does not replace an allowed origin."""
        headers = {"Origin": "https://evil.example"}
        for method, given in (("GET", READER), ("POST", WRITER)):
            answer = self.ask(method, f"/topics/news?wait=0&token={given}", headers, b"x")
            self.assertEqual(answer.status, 403)
            self.assertIn("origin", answer.text)
        browser = self.daemon.connect(f"/topics/news?token={READER}", origin="https://evil.example")
        self.assertFalse(browser.opened)

    def test_readable(self) -> None:
        """The page may read every answer, refusals and their reasons included."""
        for given, status in ((READER, 200), ("x", 401), (WRITER, 403)):
            answer = self.ask("GET", f"/topics/news?wait=0&token={given}", {"Origin": self.PAGE})
            self.assertEqual(answer.status, status)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], self.PAGE)
            exposed = answer.headers["Access-Control-Expose-Headers"]
            self.assertIn("WWW-Authenticate", exposed)


class EndTests(TokenTestCase):
    """Connections end with their tokens."""

    def test_websocket(self) -> None:
        """A WebSocket is closed with 1008, with or without a subprotocol."""
        short = token("a", exp=10, subscribe=["news"])
        browsers = [self.connect(short), self.connect(short, v1=False)]
        self.daemon.advance(9.9)
        self.assertEqual([one.closing for one in browsers], [None, None])
        self.daemon.advance(0.1)
        self.assertEqual([one.closing for one in browsers], [TOKEN_EXPIRED, TOKEN_EXPIRED])
        self.assertEqual(TOKEN_EXPIRED.code, 1008)

    def test_events(self) -> None:
        """A stream ends, and after the leeway the token is refused."""
        short = token(exp=10, subscribe=["news"])
        connection = self.daemon.open_connection()
        connection.send(
            f"GET /topics/news?token={short} HTTP/1.1\r\nHost: localhost:8080\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        self.daemon.advance(9.9)
        self.assertFalse(connection.received.endswith(b"0\r\n\r\n"))
        self.daemon.advance(0.1)
        self.assertTrue(connection.received.endswith(b"0\r\n\r\n"))
        self.assertEqual(self.describe("news")["subscribers"], {})
        self.daemon.advance(30)
        self.assertEqual(self.ask("GET", f"/topics/news?wait=0&token={short}").status, 401)
        connection.leave()

    def test_long_poll(self) -> None:
        """A waiting long poll is answered."""
        short = token(exp=10, subscribe=["news"])
        connection = self.daemon.open_connection()
        connection.send(
            f"GET /topics/news?token={short}&wait=60 HTTP/1.1\r\n"
            "Host: localhost:8080\r\n\r\n".encode()
        )
        self.daemon.advance(9.9)
        self.assertIsNone(connection.answer())
        self.daemon.advance(0.1)
        answer = connection.answer()
        assert answer is not None
        self.assertEqual((answer.status, self.said(answer)["publications"]), (200, []))
        connection.leave()

    def test_in_the_leeway(self) -> None:
        """A token that was accepted within the leeway is valid until the leeway ends."""
        self.daemon.advance(15)
        browser = self.connect(token(exp=10, subscribe=["news"]))
        self.daemon.advance(20)
        self.assertIsNone(browser.closing)
        self.daemon.advance(5)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_one_timer(self) -> None:
        """One timer serves the tokens of all connections."""
        self.connect(token(exp=100, subscribe=["news"]))
        before = len(self.daemon.pending_calls)
        for number in range(20):
            self.connect(token(exp=100 + number, subscribe=["news"]))
        self.assertEqual(len(self.daemon.pending_calls), before)


class FreshTests(TokenTestCase):
    """Sending a fresh token over ``pushd.v1``."""

    def fresh(self, browser: Browser, given: object) -> Any:
        """Send a token; return the answer."""
        browser.send(json.dumps({"token": given}))
        return json.loads(browser.messages[-1])

    def make(self, subject: str = "a", exp: float = 20) -> str:
        """Make a token for ``news``."""
        return token(subject, exp=exp, subscribe=["news"])

    def test_told(self) -> None:
        """After ``subscribed`` the client receives the remaining lifetime of its token."""
        browser = self.connect(self.make(exp=20.9))
        first, second = (json.loads(message) for message in browser.messages)
        self.assertEqual(first["subscribed"], "news")
        self.assertEqual(second, {"expires_in": 20})

    def test_fresh(self) -> None:
        """A fresh token moves the end of the connection."""
        browser = self.connect(self.make(exp=10))
        self.daemon.advance(5)
        self.assertEqual(self.fresh(browser, self.make(exp=20)), {"expires_in": 15})
        # A line end around it, as in a file, does not count.
        self.assertEqual(self.fresh(browser, f" {self.make(exp=20)}\n"), {"expires_in": 15})
        self.daemon.advance(14.9)
        self.assertIsNone(browser.closing)
        self.publish("news", "x")
        self.assertEqual(json.loads(browser.messages[-1])["data"], "x")
        self.daemon.advance(0.1)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_bad(self) -> None:
        """An invalid token changes nothing, and another may follow."""
        browser = self.connect(self.make(exp=10))
        for given, why in (
            (self.make("b"), "for another subject"),
            (token("a", publish=["news"]), "does not permit subscribing to news"),
            ("x", "malformed"),
        ):
            said = self.fresh(browser, given)
            self.assertEqual(said["where"], "token")
            self.assertIn(why, said["error"])
        self.assertEqual(self.fresh(browser, self.make()), {"expires_in": 20})
        self.daemon.advance(10)
        self.assertIsNone(browser.closing)

    def test_ignored(self) -> None:
        """Other messages are ignored."""
        browser = self.connect(self.make())
        before = len(browser.messages)
        for message in (
            "x",
            "[]",
            '{"token": 1}',
            "{}",
            b"\xff",
            "[" * 9000,
            json.dumps({"token": "x" * 20000}),
        ):
            browser.send(message)
        self.assertEqual(len(browser.messages), before)
        self.assertIsNone(browser.closing)

    def test_only_v1(self) -> None:
        """Without the subprotocol the client receives publications only."""
        browser = self.connect(self.make(exp=10), v1=False)
        browser.send(json.dumps({"token": self.make()}))
        self.assertEqual(browser.messages, [])
        self.daemon.advance(10)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_without(self) -> None:
        """A connection that was opened without a token does not accept one."""
        self.start(token_keys=TokenKeys())
        browser = self.daemon.connect("/topics/news", subprotocols=["pushd.v1"])
        self.assertEqual(len(browser.messages), 1)
        why = "this connection was opened without a token; a token cannot be added"
        self.assertEqual(self.fresh(browser, self.make())["error"], why)
        self.replace_keys(secret_keys())
        self.assertEqual(self.fresh(browser, self.make())["error"], why)

    def test_keys_gone(self) -> None:
        """If all keys are removed, the old token stays valid until it expires."""
        self.start(token_keys=secret_keys())
        browser = self.connect(self.make(exp=10))
        self.replace_keys(TokenKeys())
        self.assertIn("without a token", self.fresh(browser, self.make())["error"])
        self.daemon.advance(10)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_rate(self) -> None:
        """A client that sends too many tokens is closed: each takes time to check."""
        browser = self.connect(self.make(exp=1000))
        for _ in range(10):
            self.assertIn("error", self.fresh(browser, "x"))
        self.daemon.advance(1)
        self.assertIn("error", self.fresh(browser, "x"))
        browser.send(json.dumps({"token": self.make()}))
        self.assertEqual(browser.closing, RATE_EXCEEDED)


class LogTests(TokenTestCase):
    """Tokens in the log."""

    def test_log(self) -> None:
        """No token is logged, valid or not, whichever way it came."""
        lines: list[str] = []

        @implementer(ILogObserver)
        def note(event: LogEvent) -> None:
            lines.append(f"{event} {formatEvent(event)}")

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        other = token("other", publish=["news"])
        browser = self.connect(READER)
        browser.send(json.dumps({"token": WRITER}))
        browser.close()
        for given in (READER, WRITER, other):
            self.ask("GET", f"/topics/news?wait=0&token={given}")
            self.post(given)
            self.ask("POST", f"/topics/news?token={given}", None, b"x")
        self.assertTrue(lines)
        for secret in (READER, WRITER, other):
            signature = secret.rpartition(".")[2]
            self.assertEqual([line for line in lines if signature in line], [])
