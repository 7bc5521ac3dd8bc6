"""Presence over all transports, and at the control port."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import NORMAL
from pushd.access.limits import Limits
from pushd.access.permissions import Permission
from pushd.api.subscribe.presence import PresencePoll
from pushd.errors import NotPermitted, Unavailable
from pushd.testing import Answer, Browser, RawConnection
from pushd.topics.presence import LINGER, Presence, PresenceList
from pushd.topics.rules import Rule, Rules
from pushd.views import accept_websocket
from tests.support.keyring import secret_keys, sign
from tests.support.topic_clients import TopicTestCase

RULES = Rules([Rule(match="chat/**", presence=True), Rule(match="chat", presence=True)])


def named(subject: str, info: Any = None) -> str:
    """Return the query of a token for all topics, with what it says of its subject."""
    claims = {"sub": subject, "exp": 3600, "subscribe": ["**"], "info": info}
    return f"token={sign(claims)}"


class PresenceTestCase(TopicTestCase):
    """A daemon with presence for some topics."""

    def setUp(self) -> None:
        """Start it."""
        self.start(rules=RULES, token_keys=secret_keys())

    def listed(self, topic: str = "chat/7") -> Any:
        """Return what the control port says of a topic, without the topic."""
        answer = self.control("GET", f"/topics/{topic}/presence")
        self.assertEqual(answer.status, 200, answer)
        said = json.loads(answer.body)
        self.assertEqual(said.pop("topic"), topic)
        return said

    def subjects(self) -> list[tuple[str | None, int]]:
        """Return each subject with the number of its connections."""
        return [(one["subject"], len(one["connections"])) for one in self.listed()["subjects"]]

    def connect(self, query: str, *, v1: bool = True, topic: str = "chat/7") -> Browser:
        """Subscribe over WebSocket."""
        protocols = ["pushd.v1"] if v1 else []
        return self.daemon.connect(f"/topics/{topic}?{query}", subprotocols=protocols)

    def said(self, browser: Browser) -> list[dict[str, Any]]:
        """Return what presence says on a WebSocket."""
        kinds = {"presence", "joined", "left"}
        messages = [json.loads(message) for message in browser.messages]
        return [one for one in messages if kinds & one.keys()]

    def stream(self, query: str) -> RawConnection:
        """Subscribe over SSE."""
        connection = self.daemon.open_connection()
        connection.send(
            f"GET /topics/chat/7?{query} HTTP/1.1\r\nHost: localhost:8080\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        return connection

    def poll(self, query: str) -> RawConnection:
        """Send a long poll."""
        connection = self.daemon.open_connection()
        connection.send(
            f"GET /topics/chat/7?{query} HTTP/1.1\r\nHost: localhost:8080\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        return connection

    def answer(self, connection: RawConnection) -> dict[str, Any]:
        """Return the answer to a poll."""
        answer = connection.answer()
        assert answer is not None
        self.assertEqual(answer.status, 200, answer)
        value: dict[str, Any] = json.loads(answer.body)
        return value

    def get(self, query: str, topic: str = "chat/7") -> Answer:
        """Send a request that is answered at once."""
        answer = self.daemon.get(f"/topics/{topic}?{query}")
        assert answer is not None
        return answer


class ControlPortTests(PresenceTestCase):
    """What operators see."""

    def test_every_transport(self) -> None:
        """Subscribers of every transport are present, and one subject is listed once."""
        self.connect(named("ann", {"name": "Ann"}))
        self.connect(named("ann", {"name": "Anna"}), v1=False)
        self.stream(named("ann", {"name": "Annie"}))
        self.poll(named("bob"))
        listed = self.listed()
        ann, bob = listed["subjects"]
        self.assertEqual((ann["subject"], ann["info"]), ("ann", {"name": "Annie"}))
        self.assertEqual((bob["subject"], bob["info"]), ("bob", None))
        numbers = [int(one.partition(".")[2]) for one in ann["connections"]]
        open = json.loads(self.control("GET", "/connections").body)["connections"]
        self.assertEqual(numbers, [one["id"] for one in open if one["subject"] == "ann"])
        self.assertEqual((listed["count"], listed["connections"]), (2, 4))

    def test_leaving(self) -> None:
        """Whoever leaves is listed for five seconds more, without a connection."""
        browser, stream = self.connect(named("ann")), self.stream(named("bob"))
        poll = self.poll(named("cyd"))
        browser.close()
        stream.leave()
        poll.leave()
        self.assertEqual(self.subjects(), [("ann", 0), ("bob", 0), ("cyd", 0)])
        self.daemon.advance(LINGER)
        self.assertEqual(self.listed(), {"subjects": [], "count": 0, "connections": 0})

    def test_both_paths(self) -> None:
        """``/presence`` lists the same."""
        self.connect(named("ann"))
        one = self.control("GET", "/topics/chat/7/presence")
        two = self.control("GET", "/presence?topic=chat/7")
        self.assertEqual((one.status, one.body), (200, two.body))
        self.assertEqual(self.control("GET", "/topics/chat/7/presence?x=1").status, 400)

    def test_refused(self) -> None:
        """A topic without presence, an invalid one, and none at all are refused."""
        for path, status, where in (
            ("/presence?topic=news", 404, "topic"),
            ("/presence?topic=a//b", 400, "topic"),
            ("/presence", 400, "topic"),
            ("/presence?topic=chat&x=1", 400, "x"),
        ):
            answer = self.control("GET", path)
            self.assertEqual((answer.status, json.loads(answer.body)["where"]), (status, where))
        self.assertEqual(self.control("POST", "/presence?topic=chat").status, 405)

    def test_topics_that_are_named_so(self) -> None:
        """A topic whose name ends so is described, unless the one before it has presence."""
        self.publish("news/presence", "x")
        self.publish("chat/presence", "x")
        self.assertEqual(self.describe("news/presence")["history"], 1)
        self.assertIn("subjects", self.describe("chat/presence"))

    def test_counts_only(self) -> None:
        """Beyond the limit, there are counts only."""
        self.start(rules=RULES, max_present=1)
        self.connect("client=a")
        self.assertEqual(self.listed()["subjects"][0]["connections"], ["a"])
        self.connect("client=b")
        self.assertEqual(self.listed(), {"subjects": None, "count": 2, "connections": 2})

    def test_without_a_rule(self) -> None:
        """A topic without presence costs nothing: no state is kept for it."""
        self.connect(named("ann"), topic="news")
        self.stream(named("ann"))
        presence: Any = self.presence()
        self.assertEqual(list(presence._topics), ["chat/7"])

    def presence(self) -> Any:
        """Return the daemon's presence."""
        return self.daemon._service._presence

    def test_unavailable(self) -> None:
        """If other nodes cannot be asked, it is answered with 503."""
        unavailable: Deferred[PresenceList] = fail(Unavailable("no Redis"))
        with mock.patch.object(self.presence(), "describe", lambda topic: unavailable):
            answer = self.control("GET", "/presence?topic=chat")
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (503, "broker"))


class WebSocketTests(PresenceTestCase):
    """Presence on ``pushd.v1``."""

    def test_told(self) -> None:
        """A subscriber that asks gets the list, then who joins and leaves; others get nothing."""
        ann = self.connect(f"{named('ann', 1)}&presence=1")
        silent = self.connect(named("ann"))
        bob = self.stream(named("bob", "B"))
        self.daemon.advance(1)
        bob.leave()
        self.daemon.advance(LINGER, 1)
        connection = self.listed()["subjects"][0]["connections"][0]
        node = connection.partition(".")[0]
        ids = {"connection": connection, "connections": [connection]}
        told = [{"subject": "ann", **ids, "info": 1}]
        change = {"subject": "bob", "connection": f"{node}.3", "info": "B"}
        self.assertEqual(
            self.said(ann),
            [
                {"presence": "chat/7", "subjects": told, "count": 1, "connections": 1},
                {"joined": "chat/7", **change},
                {"left": "chat/7", **change},
            ],
        )
        self.assertEqual(list(self.said(ann)[1]), ["joined", "subject", "connection", "info"])
        self.assertEqual(self.said(silent), [])
        self.assertEqual(json.loads(ann.messages[0])["subscribed"], "chat/7")

    def test_reconnecting(self) -> None:
        """A client that names its connection may reconnect, and neither leaves nor joins."""
        self.start(rules=RULES)
        watcher = self.connect("presence=1&client=me")
        self.daemon.advance(1)
        for _ in range(3):
            browser = self.connect("client=tab-1")
            self.daemon.advance(1)
            browser.leave()
            self.daemon.advance(4)
        self.daemon.advance(10)
        names = [next(iter(one)) for one in self.said(watcher)]
        self.assertEqual(names, ["presence", "joined", "left"])
        self.assertEqual(self.said(watcher)[1]["connection"], "tab-1")
        self.assertEqual(self.said(watcher)[1]["subject"], None)

    def test_slow(self) -> None:
        """A client that does not read is not sent changes, but the whole list once it reads."""
        watcher = self.connect(f"{named('ann')}&presence=1")
        self.daemon.advance(1)
        watcher.stall()
        self.publish("chat/7", "x" * 600_000)
        for subject in ("bob", "cyd"):
            self.connect(named(subject))
            self.daemon.advance(1)
        self.assertEqual(len(self.said(watcher)), 1)
        watcher.resume()
        self.daemon.advance(1)
        lists = [one["count"] for one in self.said(watcher)]
        self.assertEqual(lists, [1, 3])

    def test_ended(self) -> None:
        """Nothing is told after the end, and no timer is left."""
        watcher = self.connect(f"{named('ann')}&presence=1")
        watcher.close()
        self.connect(named("bob"))
        self.daemon.advance(20)
        self.assertEqual(watcher.closing and watcher.closing.code, 1000)

    def test_refused(self) -> None:
        """Without pushd.v1, for a topic without presence, and with other values it is refused."""
        for browser, where in (
            (self.connect(f"{named('ann')}&presence=1", v1=False), "presence"),
            (self.connect(f"{named('ann')}&presence=1", topic="news"), "presence"),
            (self.connect(f"{named('ann')}&presence=yes"), "presence"),
            (self.connect(f"{named('ann')}&client=a.b"), "client"),
            (self.connect(f"{named('ann')}&client={'x' * 65}"), "client"),
        ):
            assert browser.refused is not None
            self.assertEqual(browser.refused.status, 400)
            self.assertEqual(json.loads(browser.refused.body)["where"], where)

    def test_view(self) -> None:
        """A view that subscribes its browser lets it take part, until it unsubscribes or ends."""

        @accept_websocket
        async def view(request: Any) -> None:
            await request.websocket.subscribe("chat/7")
            await request.websocket.subscribe("news")
            async for message in request.websocket:
                if message == "who":
                    listed = await request.websocket.presence("chat/7")
                    request.websocket.send(str(listed.count))
                else:
                    request.websocket.unsubscribe("chat/7")

        self.start({"/view/": view}, rules=RULES)
        browser = self.daemon.connect("/view/")
        browser.send("who")
        self.assertEqual(browser.messages, ["1"])
        self.assertEqual(self.subjects(), [(None, 1)])
        browser.send("leave")
        self.assertEqual(self.subjects(), [(None, 0)])

    def test_blocking_view(self) -> None:
        """A view in a thread gets the list itself."""

        @accept_websocket
        def view(request: Any) -> None:
            request.websocket.subscribe("chat/7")
            listed = request.websocket.presence("chat/7")
            request.websocket.send(f"{listed.count} {listed.connections}")

        self.start({"/view/": view}, rules=RULES)
        self.assertEqual(self.daemon.connect("/view/").messages, ["1 1"])

    def test_view_that_asks_too_late(self) -> None:
        """After the end, and for a topic without presence, a view gets a ValueError."""
        errors = []

        @accept_websocket
        async def view(request: Any) -> None:
            for topic in ("news", "a//b"):
                try:
                    await request.websocket.presence(topic)
                except ValueError as error:
                    errors.append(str(error))
            await request.websocket.wait()
            try:
                await request.websocket.presence("chat")
            except ValueError as error:
                errors.append(str(error))

        self.start({"/view/": view}, rules=RULES)
        self.daemon.connect("/view/").leave()
        self.assertEqual(len(errors), 3)
        self.assertIn("presence = true", errors[0])
        self.assertIn("has ended", errors[2])


class SseTests(PresenceTestCase):
    """Presence in event streams."""

    def events(self, connection: RawConnection) -> list[tuple[str, dict[str, Any]]]:
        """Return the events of presence."""
        text = connection.received.decode()
        found = []
        for event in text.split("\n\n"):
            lines = [line for line in event.splitlines() if ":" in line]
            fields = dict(line.split(": ", 1) for line in lines if ": " in line)
            if fields.get("event") in ("presence", "joined", "left"):
                self.assertNotIn("id", fields)
                found.append((fields["event"], json.loads(fields["data"])))
        return found

    def test_told(self) -> None:
        """The list and the changes are events without an id."""
        stream = self.stream(f"{named('ann')}&presence=1")
        self.daemon.advance(1)
        self.connect(named("bob")).leave()
        self.daemon.advance(LINGER + 1, 1)
        events = self.events(stream)
        self.assertEqual([kind for kind, _ in events], ["presence", "joined", "left"])
        self.assertEqual(events[0][1]["count"], 1)
        self.assertEqual(events[1][1]["subject"], "bob")

    def test_slow(self) -> None:
        """A client that does not read is not sent changes, but the whole list once it reads."""
        stream = self.stream(f"{named('ann')}&presence=1")
        self.daemon.advance(1)
        stream.stall()
        self.publish("chat/7", "x" * 600_000)
        self.connect(named("bob"))
        self.daemon.advance(1)
        stream.resume()
        self.daemon.advance(1)
        self.assertEqual([value["count"] for _, value in self.events(stream)], [1, 2])

    def test_ended(self) -> None:
        """A stream that has ended is told nothing more."""
        stream = self.stream(f"{named('ann')}&presence=1")
        stream.leave()
        self.connect(named("bob"))
        self.daemon.advance(10)
        self.assertEqual(len(self.events(stream)), 1)

    def test_ends_at_once(self) -> None:
        """A stream that ends as it starts watches nothing."""
        connection = self.stream(named("ann"))
        service: Any = self.daemon._service
        [open] = service.connections
        open.closable.close_with(NORMAL)
        open.closable.tell_presence(service._presence, "chat/7")
        self.connect(named("bob"))
        self.daemon.advance(1)
        self.assertEqual(self.events(connection), [])


class LongPollTests(PresenceTestCase):
    """Presence in long polls."""

    def test_first(self) -> None:
        """The first poll is answered at once with the list and its version."""
        answer = self.answer(self.poll(f"{named('ann', 'A')}&presence=1"))
        presence = answer["presence"]
        [ann] = presence["subjects"]
        self.assertEqual((ann["subject"], ann["info"]), ("ann", "A"))
        self.assertEqual((presence["count"], presence["connections"]), (1, 1))
        self.assertRegex(presence["version"], "^[0-9a-f]{16}$")
        self.assertEqual(list(answer), ["id", "recovered", "presence", "publications"])

    def test_changes(self) -> None:
        """The next poll is answered once it has changed, also between two polls."""
        first = self.answer(self.poll(f"{named('ann')}&presence=1"))
        query = f"{named('ann')}&after={first['id']}&presence="
        poll = self.poll(query + first["presence"]["version"])
        self.daemon.advance(3)
        self.assertIsNone(poll.answer())
        bob = self.connect(named("bob"))
        self.daemon.advance(0.2)
        self.connect(named("cyd"))
        self.daemon.advance(0.2)
        self.assertIsNone(poll.answer())
        self.daemon.advance(0.3)
        second = self.answer(poll)["presence"]
        self.assertEqual([one["subject"] for one in second["subjects"]], ["ann", "bob", "cyd"])
        bob.leave()
        self.daemon.advance(LINGER)
        # Ann is gone as well, as long as she does not poll.
        poll = self.poll(query + second["version"])
        self.daemon.advance(0.5)
        third = self.answer(poll)["presence"]
        self.assertEqual([one["subject"] for one in third["subjects"]], ["ann", "cyd"])

    def test_unchanged(self) -> None:
        """An answer without presence says that nothing has changed."""
        first = self.answer(self.poll(f"{named('ann')}&presence=1"))
        version = first["presence"]["version"]
        poll = self.poll(f"{named('ann')}&after={first['id']}&presence={version}")
        self.publish("chat/7", "x")
        self.assertNotIn("presence", self.answer(poll))

    def test_plain_polling(self) -> None:
        """Plain polling gets the list, too."""
        answer = self.answer(self.poll(f"{named('ann')}&presence=1&wait=0"))
        self.assertEqual(answer["presence"]["count"], 1)

    def test_counts_only(self) -> None:
        """Beyond the limit each answer has the counts, and none is sent because of them."""
        self.start(rules=RULES, max_present=1)
        for name in "abc":
            self.connect(f"client={name}")
        first = self.answer(self.poll("presence=1&client=d"))
        self.assertEqual(first["presence"]["version"], "counts")
        self.assertEqual(first["presence"]["subjects"], None)
        poll = self.poll(f"presence=counts&client=d&after={first['id']}")
        self.connect("client=e")
        self.daemon.advance(20)
        self.assertIsNone(poll.answer())
        self.daemon.advance(5)
        self.assertEqual(self.answer(poll)["presence"]["count"], 5)

    def test_anonymous(self) -> None:
        """A poll without a subject and a client's name does not count."""
        self.start(rules=RULES)
        self.poll("wait=5")
        self.assertEqual(self.subjects(), [])
        self.poll("wait=5&client=tab")
        self.assertEqual(self.subjects(), [(None, 1)])

    def test_other_nodes(self) -> None:
        """A poll waits until other nodes have answered, but not if the daemon stops."""
        presence: Any = self.daemon._service._presence
        for stops in (False, True):
            asked: Deferred[PresenceList] = Deferred()
            with mock.patch.object(presence, "describe", return_value=asked):
                poll = self.poll(f"{named('ann')}&presence=1&wait=0")
            self.daemon.advance(1)
            if stops:
                self.daemon.begin_stop()
                self.assertIsNotNone(poll.answer())
            else:
                self.publish("chat/7", "x")
                self.assertIsNone(poll.answer())
            asked.callback(PresenceList("chat/7", None, 9, 9))
            self.daemon.settle()
            self.assertIsNotNone(poll.answer())

    def test_unavailable(self) -> None:
        """If other nodes cannot be asked, a poll is answered without presence."""
        presence: Any = self.daemon._service._presence
        unavailable: Deferred[PresenceList] = fail(Unavailable("no Redis"))
        with (
            mock.patch.object(presence, "describe", return_value=unavailable),
            mock.patch.object(presence, "known", return_value=None),
        ):
            answer = self.answer(self.poll(f"{named('ann')}&presence=1&wait=0"))
        self.assertNotIn("presence", answer)

    def test_refused(self) -> None:
        """A version of another form is refused, and a topic without presence."""
        for query, topic in (("presence=A", "chat/7"), ("presence=", "chat/7")):
            answer = self.get(f"{named('ann')}&{query}", topic)
            self.assertEqual(json.loads(answer.body)["where"], "presence")
        answer = self.get(f"{named('ann')}&presence=1", "news")
        self.assertEqual((answer.status, json.loads(answer.body)["where"]), (400, "presence"))


class PresencePollTests(SynchronousTestCase):
    """The presence of several topics in one poll."""

    def test_several(self) -> None:
        """The version stands for all of them, and changes with each."""
        clock = Clock()
        presence = Presence(clock, Limits(), "n", None)
        self.addCleanup(presence.stop)
        poll, calls = PresencePoll(presence, ("a", "b"), "1"), []
        self.assertEqual((poll.is_ready, poll.is_news, poll.is_first), (False, False, True))
        poll.start(lambda: calls.append(poll.is_news))
        first = poll.json()
        assert first is not None
        self.assertEqual(list(first["topics"]), ["a", "b"])
        presence.join("b", 1)
        clock.advance(0.1)
        second = poll.json()
        assert second is not None
        self.assertNotEqual(first["version"], second["version"])
        self.assertEqual(second["topics"]["b"]["count"], 1)
        poll.stop()
        again = PresencePoll(presence, ("a", "b"), second["version"])
        again.start(lambda: None)
        self.assertEqual((again.json(), again.is_news), (None, False))
        again.stop()
        self.assertTrue(all(calls))


class AuthorizerTests(PresenceTestCase):
    """The authorizer names subjects, and decides who may learn of them."""

    def call(self, name: str, query: str) -> Browser:
        """Subscribe with a header that names the client."""
        return self.daemon.connect(
            f"/topics/chat/7{query}", subprotocols=["pushd.v1"], headers={"X-Name": name}
        )

    def test_asked(self) -> None:
        """It is asked for the action ``presence`` as well, and says the subject and its info."""
        asked = []

        async def authorize(request: Any, action: str, topic: str) -> Any:
            asked.append(action)
            if action == "presence" and request.headers["X-Name"] == "bob":
                raise NotPermitted("bob may not know")
            return Permission(subject=request.headers["X-Name"], info={"is": topic})

        rule = Rule(match="chat/**", presence=True, subscribe="authorize")
        self.start(rules=Rules([rule]), authorize=authorize)
        self.call("ann", "")
        self.assertEqual(asked, ["subscribe"])
        refused = self.call("bob", "?presence=1").refused
        assert refused is not None
        self.assertEqual(refused.status, 403)
        self.call("cyd", "?presence=1")
        self.assertEqual(asked[1:], ["subscribe", "presence"] * 2)
        self.assertEqual(self.subjects(), [("ann", 1), ("cyd", 1)])
        self.assertEqual(self.listed()["subjects"][0]["info"], {"is": "chat/7"})
