"""Access to topics: what rules and tokens permit, over every transport."""

from __future__ import annotations

import json
from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.authorization import Authorizer
from pushd.access.tokens import TokenKeys
from pushd.api.subscribe.longpoll import LongPoll
from pushd.api.topic_access import Caller, TopicAccess
from pushd.errors import Denied
from pushd.testing import Answer
from pushd.topics.rules import Access, Rule, Rules
from tests.support.keyring import secret_keys, token
from tests.support.topic_clients import TopicTestCase

READER = token("ann", subscribe=["**"])
WRITER = token("bob", publish=["**"])


class TopicAccessTests(SynchronousTestCase):
    """``TopicAccess`` decides by the rule of a topic, and else by whether there are keys."""

    def make(
        self, keys: TokenKeys, subscribe: Access | None = None, publish: Access | None = None
    ) -> TopicAccess:
        """Make one with a rule for all topics."""
        rule = Rule(match="**", subscribe=subscribe, publish=publish)
        return TopicAccess(Authorizer(keys, lambda: 0), Rules([rule]))

    def outcome(self, access: TopicAccess, action: Any, given: str | None = None) -> Any:
        """Return the subject of who may act, None for any client, or the status of the denial."""
        caller = Caller()
        if given is not None:
            try:
                caller = Caller(Authorizer(secret_keys(), lambda: 0).identify(given))
            except Denied as denied:
                caller = Caller(problem=denied)
        outcomes: list[Any] = []
        access.authorize(caller, action, "t").addBoth(outcomes.append)
        [outcome] = outcomes
        if isinstance(outcome, Failure):
            refused = outcome.value
            assert isinstance(refused, Denied)
            return refused.status, refused.where
        return outcome and outcome.subject

    def test_without_rules(self) -> None:
        """Without keys all may subscribe and none may publish; with keys both need a token."""
        free, closed = self.make(TokenKeys()), self.make(secret_keys())
        self.assertEqual(self.outcome(free, "subscribe"), None)
        self.assertEqual(self.outcome(free, "presence"), None)
        self.assertEqual(self.outcome(free, "publish"), (403, "topic"))
        self.assertEqual((free.may_publish("t"), closed.may_publish("t")), (False, True))
        for action in ("subscribe", "presence", "publish"):
            self.assertEqual(self.outcome(closed, action), (401, "token"))
            self.assertEqual(self.outcome(closed, action, "x"), (401, "token"))
        self.assertEqual(self.outcome(closed, "subscribe", READER), "ann")
        self.assertEqual(self.outcome(closed, "subscribe", WRITER), (403, "token"))
        self.assertEqual(self.outcome(closed, "publish", WRITER), "bob")
        self.assertEqual(self.outcome(closed, "publish", READER), (403, "token"))

    def test_anyone(self) -> None:
        """If anyone may, a valid token tells who it is, and an invalid one is ignored."""
        access = self.make(secret_keys(), subscribe="anyone", publish="anyone")
        for action in ("subscribe", "publish"):
            self.assertEqual(self.outcome(access, action), None)
            self.assertEqual(self.outcome(access, action, "x"), None)
            self.assertEqual(self.outcome(access, action, WRITER), "bob")

    def test_token(self) -> None:
        """If a token is needed and there are no keys, no client has one."""
        access = self.make(TokenKeys(), subscribe="token", publish="token")
        self.assertEqual(self.outcome(access, "subscribe"), (401, "token"))
        self.assertEqual(self.outcome(access, "publish"), (401, "token"))

    def test_nobody(self) -> None:
        """If none may, no token helps."""
        access = self.make(secret_keys(), subscribe="nobody", publish="nobody")
        self.assertEqual(self.outcome(access, "subscribe", READER), (403, "topic"))
        self.assertEqual(self.outcome(access, "publish", WRITER), (403, "topic"))
        self.assertFalse(access.may_publish("t"))

    def test_first_match(self) -> None:
        """The first rule that matches a topic decides."""
        rules = [
            Rule(match="orders/*", subscribe="token"),
            Rule(match="**", subscribe="anyone"),
        ]
        access = TopicAccess(Authorizer(secret_keys(), lambda: 0), Rules(rules))
        for topic, denied in (("orders/7", True), ("orders/7/8", False), ("news", False)):
            asked = access.authorize(Caller(), "subscribe", topic)
            if denied:
                self.failureResultOf(asked, Denied)
            else:
                self.assertIsNone(self.successResultOf(asked))


class RuleTests(TopicTestCase):
    """Rules at the public port."""

    def use(self, *rules: Rule, **settings: Any) -> None:
        """Start a daemon with rules."""
        self.start(rules=Rules(rules), **settings)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request to the public port that is answered at once."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.daemon.request(method, path, named, body)
        assert answer is not None
        return answer

    def test_nobody(self) -> None:
        """A topic that none may subscribe to is refused with 403 over every transport."""
        self.use(Rule(match="secret/**", subscribe="nobody"))
        for accept in ("*/*", "text/event-stream"):
            answer = self.ask("GET", "/topics/secret/a?wait=0", Accept=accept)
            self.assertEqual(answer.status, 403)
            error = "subscribing to secret/a is not permitted"
            self.assertEqual(json.loads(answer.body), {"error": error, "where": "topic"})
        refused = self.daemon.connect("/topics/secret/a").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)
        self.assertEqual(self.ask("GET", "/topics/news?wait=0").status, 200)

    def test_anyone_publishes(self) -> None:
        """A topic that anyone may publish to takes a POST without keys, and says so."""
        self.use(Rule(match="votes/*", publish="anyone"))
        browser = self.daemon.connect("/topics/votes/1")
        self.assertEqual(self.ask("POST", "/topics/votes/1", b"yes").status, 200)
        self.assertEqual(browser.messages, ["yes"])
        self.assertEqual(self.ask("POST", "/topics/news", b"yes").status, 405)
        for topic, methods in (
            ("votes/1", "GET, HEAD, POST, OPTIONS"),
            ("a", "GET, HEAD, OPTIONS"),
        ):
            answer = self.ask("OPTIONS", f"/topics/{topic}")
            self.assertEqual(answer.headers["Allow"], methods)
        for path in ("/topics/votes/1?delay=1", "/topics/votes/1?x=1"):
            self.assertEqual(self.ask("POST", path, b"yes").status, 400)

    def test_failure(self) -> None:
        """An exception while a request is answered is logged once, and answered with 500."""
        self.patch(LongPoll, "start", lambda *_: 1 / 0)
        self.assertEqual(self.ask("GET", "/topics/t?wait=0").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_idempotency(self) -> None:
        """Clients without a token share their idempotency keys, and those with one do not."""
        self.use(Rule(match="**", publish="anyone"), token_keys=secret_keys())
        ids = [
            json.loads(self.ask("POST", path, b"x", Idempotency_Key="k").body)["id"]
            for path in ("/topics/t", "/topics/t", f"/topics/t?token={WRITER}")
        ]
        self.assertEqual(ids[0], ids[1])
        self.assertNotEqual(ids[0], ids[2])

    def test_anyone_with_keys(self) -> None:
        """A topic can be free although others need a token; a token that came along still ends."""
        self.use(Rule(match="news", subscribe="anyone"), token_keys=secret_keys())
        self.assertEqual(self.ask("GET", "/topics/news?wait=0").status, 200)
        self.assertEqual(self.ask("GET", "/topics/other?wait=0").status, 401)
        given = token("ann", exp=10, subscribe=["news"])
        v1 = ["pushd.v1"]
        browsers = [
            self.daemon.connect("/topics/news", subprotocols=v1),
            self.daemon.connect(f"/topics/news?token={given}", subprotocols=v1),
            self.daemon.connect("/topics/news?token=x", subprotocols=v1),
        ]
        self.assertEqual([len(one.messages) for one in browsers], [1, 2, 1])
        listed = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual([one["subject"] for one in listed], [None, "ann", None])
        browsers[0].send(json.dumps({"token": given}))
        self.assertIn("without a token", str(browsers[0].messages[-1]))
        self.daemon.advance(10)
        self.assertEqual([one.closing is None for one in browsers], [True, False, True])
