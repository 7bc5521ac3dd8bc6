"""The commands: their requests, their output, and the lines about errors."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from pushd.access.permissions import Permission
from pushd.access.tokens import TokenKeys
from pushd.client.commands import print_json, print_table, printable
from pushd.topics.rules import Rule, Rules
from pushd.topics.timestamp import format_timestamp, parse_timestamp
from tests.client.command_case import CommandTestCase
from tests.support.keyring import SECRET, private_pem, public_pem, secret_keys, token
from tests.support.topic_clients import RawWebSocketClient, SseClient, V1WebSocketClient


class PublishTests(CommandTestCase):
    """``pushdctl publish``."""

    def test_argument(self) -> None:
        """The data is an argument; the id and the number of subscribers are printed."""
        client = V1WebSocketClient(self.daemon, "news")
        said = self.good("publish", "news", "tschüß")
        self.assertEqual(said, f"{client.ids[0]} (subscribers: 1)\n")
        self.assertEqual(client.data, ["tschüß"])

    def test_after_options(self) -> None:
        """The data may stand between options, or after them."""
        client = RawWebSocketClient(self.daemon, "t")
        self.good("publish", "t", "--delay", "0.1", "late")
        self.good("publish", "--json", "t", "soon")
        self.good("publish", "t", "--binary", "now")
        self.daemon.advance(0.2)
        self.assertEqual(client.data, ["soon", b"now", "late"])

    def test_stdin(self) -> None:
        """Without an argument, standard input is published, without its last newline."""
        client = RawWebSocketClient(self.daemon, "t")
        for given in (b"a\n", b"b\r\n", b"c\n\n", b"d", b""):
            self.good("publish", "t", stdin=given)
        self.assertEqual(client.data, ["a", "b", "c\n", "d", ""])

    def test_binary(self) -> None:
        """With --binary, bytes are published unchanged."""
        client = RawWebSocketClient(self.daemon, "t")
        self.good("publish", "t", "--binary", stdin=b"\xff\n")
        self.good("publish", "t", "x", "--binary")
        self.assertEqual(client.data, [b"\xff\n", b"x"])

    def test_content_type(self) -> None:
        """With --content-type, the data is JSON, bytes, or the text that it is by default."""
        browser = self.daemon.connect("/topics/t?format=json", subprotocols=["pushd.v1"])
        json_type = "--content-type=application/json"
        self.good("publish", "t", '{"order": 66, "order": 67}', json_type)
        self.good("publish", "t", json_type, stdin=b"1.50\n")
        self.good("publish", "t", "1", "--content-type", "text/plain")
        self.good("publish", "t", "--content-type=application/octet-stream", stdin=b"\xff\n")
        values = [json.loads(message) for message in browser.messages[1:]]
        data = [one.get("data", one.get("base64")) for one in values]
        self.assertEqual(data, [{"order": 67}, 1.5, "1", "/wo="])

    def test_bad_content_type(self) -> None:
        """Text that is not JSON, another type, and a type beside --binary are errors."""
        line = self.bad("publish", "t", "{", "--content-type=application/json")
        self.assertIn("the body is not valid JSON", line)
        line = self.bad("publish", "t", "x", "--content-type=image/png")
        self.assertIn("--content-type: invalid choice: 'image/png'", line)
        line = self.bad("publish", "t", "x", "--binary", "--content-type=text/plain")
        self.assertIn("not allowed with argument --binary", line)

    def test_not_utf8(self) -> None:
        """Bytes that are not UTF-8 are an error without --binary."""
        for args, stdin in ((["\udcff"], b""), ([], b"\xff")):
            line = self.bad("publish", "t", *args, stdin=stdin)
            self.assertEqual(line, "the data must be UTF-8; use --binary for other bytes")

    def test_scheduled(self) -> None:
        """Scheduled publications are made; the name of the schedule is printed."""
        client = RawWebSocketClient(self.daemon, "t")
        said = self.good("publish", "t", "x", "--every", "0.5", "--count", "2", "--delay", "5")
        (schedule,) = json.loads(self.control("GET", "/schedules").body)["schedules"]
        self.assertEqual(said, f"{schedule['schedule']} (scheduled: 2)\n")
        self.daemon.advance(5, 0.5)
        self.assertEqual(client.data, ["x", "x"])

    def test_at(self) -> None:
        """With --at it is made at that time; the schedule is listed, and cancelled."""
        self.assertEqual(len(self.good("schedules").splitlines()), 1)
        now = json.loads(self.control("POST", "/topics/t?delay=60", b"x").body)["due"]
        at = parse_timestamp(now) - 30
        id = self.good("publish", "t", "x", "--at", format_timestamp(at)).split()[0]
        self.good("publish", "u", "x", "--delay", "50", "--every", "0.5", "--count", "3")
        lines = [line.split() for line in self.good("schedules").splitlines()]
        self.assertEqual(lines[0], ["ID", "TOPIC", "DONE", "EVERY", "NEXT"])
        self.assertEqual(
            [line[1:4] for line in lines[2:]], [["t", "0/1", "-"], ["u", "0/3", "0.5"]]
        )
        self.assertEqual((lines[2][0], lines[2][4]), (id, format_timestamp(at)))
        self.assertEqual(self.good("cancel", id), "")
        said = [json.loads(line) for line in self.good("schedules", "--json").splitlines()]
        self.assertEqual([one["topic"] for one in said], ["t", "u"])
        self.assertEqual(self.bad("cancel", id), "schedule: no such schedule (404)")
        self.assertIn("RFC 3339", self.bad("publish", "t", "x", "--at", "noon"))
        self.assertIn("together", self.bad("publish", "t", "x", "--at", now, "--delay", "1"))

    def test_event(self) -> None:
        """With --event, the publication has an event."""
        client = V1WebSocketClient(self.daemon, "t")
        self.good("publish", "t", "x", "--event", "paid")
        self.assertEqual(json.loads(client.browser.messages[-1])["event"], "paid")
        self.assertIn("event must not be open", self.bad("publish", "t", "x", "--event", "open"))

    def test_idempotency_key(self) -> None:
        """With the same key, a command that is repeated publishes once."""
        args = ("publish", "t", "x", "--idempotency-key", "k")
        self.assertEqual(self.good(*args), self.good(*args))

    def test_json(self) -> None:
        """With --json, pushd's response is printed."""
        said = json.loads(self.good("publish", "t", "x", "--json"))
        self.assertEqual(said["id"], self.describe("t")["id"])

    def test_refused(self) -> None:
        """The text of a refusal is printed."""
        self.assertIn("topic: topic must be", self.bad("publish", "a b", "x"))
        self.assertIn("must not have . or ..", self.bad("publish", "a/../b", "x"))
        self.assertIn(
            "every and count must be given together", self.bad("publish", "t", "x", "--every", "1")
        )

    def test_token(self) -> None:
        """A token is taken from the command line or the environment."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        args = ("publish", "t", "x", "--control", "http://127.0.0.1:8080")
        self.assertIn("a token is required", self.bad(*args))
        self.good(*args, "--token", token(publish=["t"]))
        # As some shells and .env files have it.
        self.environ["PUSHD_TOKEN"] = f"{token(publish=['t'])}\r\n"
        self.good(*args)


class TailTests(CommandTestCase):
    """``pushdctl tail``."""

    def tail(self, *args: str, then: list[Callable[[], object]]) -> tuple[list[str], list[str]]:
        """Subscribe until Ctrl-C; return the lines on standard output and standard error."""

        def interrupt() -> None:
            raise KeyboardInterrupt

        self.network.steps = [*then, interrupt]
        self.assertEqual(self.run_command("tail", "t", *args), 130)
        return self.stdout.getvalue().splitlines(), self.stderr.getvalue().splitlines()

    def publish_later(self, *data: str | bytes) -> list[Callable[[], object]]:
        """Return functions that publish, to be called one by one."""
        return [lambda one=one: self.publish("t", one) for one in data]  # type: ignore[misc] # the default is the type

    def test_lines(self) -> None:
        """Each publication is a line: the id, a tab, and the data without control characters."""
        data: list[str | bytes] = ["x", "a\nb\x1b[31m", "tschüß", b"\xff"]
        printed, notes = self.tail(then=self.publish_later(*data))
        epoch = str(self.describe("t")["id"]).partition(":")[0]
        shown = ["x", "a\\nb\\x1b[31m", "tschüß", "base64:/w=="]
        self.assertEqual(printed, [f"{epoch}:{n}\t{one}" for n, one in enumerate(shown, 1)])
        self.assertEqual(notes, [f"pushd: subscribed, after id {epoch}:0"])

    def test_hostile_daemon(self) -> None:
        """Nothing that a daemon answers reaches the terminal as a control character."""
        for args, value in (
            (("publish", "t", "x"), {"id": "\x9b31m", "subscribers": "\x9b"}),
            (("publish", "t", "x", "--delay", "1"), {"schedule": "\x9b31m", "count": "\x9b"}),
            (("topics",), {"error": "\x9b31m"}),
        ):
            body = json.dumps(value).encode()
            head = b"HTTP/1.1 %d X\r\nContent-Length: " % (503 if "error" in value else 200)
            self.network.canned = head + b"%d\r\n\r\n" % len(body) + body
            self.run_command(*args)
            for line in (self.stdout.getvalue() + self.stderr.getvalue()).splitlines():
                self.assertTrue(line.isprintable(), line)
            self.assertIn("\\x9b31m", self.stdout.getvalue() + self.stderr.getvalue())

    def test_json(self) -> None:
        """With --json, each publication is a JSON object."""
        printed, _ = self.tail("--json", then=self.publish_later("ü\n", b"\xff"))
        said = [json.loads(line) for line in printed]
        self.assertEqual([sorted(one) for one in said], [["data", "id"], ["base64", "id"]])
        self.assertEqual((said[0]["data"], said[1]["base64"]), ("ü\n", "/w=="))

    def test_event(self) -> None:
        """With --json, the name of its event is in the object, if it has one."""
        steps: list[Callable[[], object]] = [
            lambda: self.publish("t", "x"),
            lambda: self.publish("t", "y", event="e"),
        ]
        printed, _ = self.tail("--json", then=steps)
        said = [json.loads(line) for line in printed]
        self.assertEqual([one.get("event") for one in said], [None, "e"])

    def test_after(self) -> None:
        """With --after it starts after an id, and says if publications are lost."""
        first, second = self.publish("t", "1"), self.publish("t", "2")
        printed, notes = self.tail("--after", first, then=[])
        self.assertEqual(printed, [f"{second}\t2"])
        self.assertNotIn("lost", notes[0])
        _, notes = self.tail("--after", "other:1", then=[])
        self.assertIn("but earlier publications are lost", notes[0])

    def test_cut(self) -> None:
        """It reconnects after a break, and says so on standard error."""
        steps = [*self.publish_later("1"), self.cut, *self.publish_later("2")]
        printed, notes = self.tail(then=steps)
        self.assertEqual([line.partition("\t")[2] for line in printed], ["1", "2"])
        self.assertRegex(notes[1], r"\Apushd: the stream ended; reconnecting in 0\.[0-9] s\Z")
        self.assertNotIn("lost", notes[2])

    def cut(self) -> None:
        """Cut the last connection."""
        self.network.connections[-1].leave()

    def test_lost(self) -> None:
        """After a restart of the daemon it says that publications are lost."""

        def restart() -> None:
            self.cut()
            self.network.daemon = self.start()

        _, notes = self.tail(then=[restart])
        self.assertIn("lost", notes[2])

    def test_token(self) -> None:
        """It sends its token."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        self.assertIn("a token is required (401)", self.bad("tail", "t"))
        self.environ["PUSHD_TOKEN"] = token(subscribe=["t"])
        printed, _ = self.tail(then=self.publish_later("x"))
        self.assertEqual(len(printed), 1)


class ListTests(CommandTestCase):
    """``pushdctl topics``, ``pushdctl connections`` and ``pushdctl close``."""

    def test_topics(self) -> None:
        """The topics are listed in a table, or with --json as objects."""
        RawWebSocketClient(self.daemon, "a")
        SseClient(self.daemon, "a")
        id = self.publish("b/c", "x")
        lines = [line.split(None, 3) for line in self.good("topics").splitlines()]
        self.assertEqual(lines[0], ["TOPIC", "LAST", "ID", "KEPT  SUBSCRIBERS"])
        self.assertEqual(lines[1][0], "a")
        self.assertEqual(lines[1][2:], ["0", "1 websocket, 1 sse"])
        self.assertEqual(lines[2], ["b/c", id, "1", "none"])
        said = [json.loads(line)["topic"] for line in self.good("topics", "--json").splitlines()]
        self.assertEqual(said, ["a", "b/c"])

    def test_last_id(self) -> None:
        """The last id of a topic is printed."""
        id = str(self.daemon.publish("news", "x"))
        self.assertEqual(self.good("last-id", "news"), f"{id}\n")
        said = json.loads(self.good("last-id", "news", "--json"))
        self.assertEqual(said, {"topic": "news", "id": id})
        self.assertIn("topic must be", self.bad("last-id", "a b"))

    def test_rules(self) -> None:
        """The rule of a topic is a table, or with --json an object."""
        self.start(rules=Rules([Rule(match="a/*", history_size=7, presence=True)]))
        self.network.daemon = self.daemon
        self.assertEqual(
            [line.split() for line in self.good("rules", "a/b").splitlines()],
            [
                ["RULE", "VALUE"],
                ["topic", "a/b"],
                ["match", "a/*"],
                ["history-size", "7"],
                ["history-ttl", "300"],
                ["subscribe", "anyone"],
                ["publish", "nobody"],
                ["presence", "true"],
                ["latest", "false"],
                ["max-message", "1048576"],
                ["retain", "false"],
            ],
        )
        self.assertIn("match         -\n", self.good("rules", "b"))
        self.assertIsNone(json.loads(self.good("rules", "b", "--json"))["match"])
        self.assertIn("topic must be", self.bad("rules", "a b"))

    def test_all_rules(self) -> None:
        """Without a topic, all rules are listed in their order, and the defaults last."""
        rules = [Rule(match="b/*", latest=True), Rule(match="a/*", history_size=7)]
        for configured, found in ((rules, ["b/*", "a/*", "-"]), ([], ["-"])):
            self.start(rules=Rules(configured))
            self.network.daemon = self.daemon
            head, *rows = [line.split() for line in self.good("rules").splitlines()]
            self.assertEqual(head[:3], ["MATCH", "HISTORY-SIZE", "HISTORY-TTL"])
            self.assertEqual([row[0] for row in rows], found)
            self.assertEqual(
                [row[head.index("LATEST")] for row in rows].count("true"), found.count("b/*")
            )
            self.assertEqual(rows[-1][1:5], ["100", "300", "anyone", "nobody"])
            given = [json.loads(line) for line in self.good("rules", "--json").splitlines()]
            self.assertEqual([one["match"] or "-" for one in given], found)

    def test_presence(self) -> None:
        """Who is present is a table, or with --json an object; of too many, there are counts."""
        rules = Rules([Rule(match="chat/*", presence=True, subscribe="authorize")])

        async def authorize(request: Any, action: str, topic: str) -> Permission:
            return Permission(subject=request.headers["X-Name"], info={"name": "Änn"})

        self.start(rules=rules, authorize=authorize, max_present=1)
        self.network.daemon = self.daemon
        self.daemon.connect("/topics/chat/7?client=tab", headers={"X-Name": "ann"})
        self.daemon.connect("/topics/chat/7?client=other", headers={"X-Name": "ann"})
        lines = [line.split(maxsplit=3) for line in self.good("presence", "chat/7").splitlines()]
        self.assertEqual(lines[0], ["SUBJECT", "CONNECTIONS", "INFO"])
        self.assertEqual(lines[1], ["ann", "tab", "other", '{"name": "Änn"}'])
        said = json.loads(self.good("presence", "chat/7", "--json"))
        self.assertEqual((said["count"], said["connections"]), (1, 2))
        self.daemon.connect("/topics/chat/7", headers={"X-Name": "bob"})
        self.assertEqual(self.run_command("presence", "chat/7"), 0)
        self.assertIn("2 subjects with 3 connections", self.stderr.getvalue())
        self.assertIn("no presence", self.bad("presence", "news"))

    def test_presence_without_names(self) -> None:
        """A subject without a name, connections or info is shown with dashes."""
        self.start(rules=Rules([Rule(match="chat/*", presence=True)]))
        self.network.daemon = self.daemon
        self.daemon.connect("/topics/chat/7?client=tab").leave()
        self.assertEqual(self.good("presence", "chat/7").splitlines()[1].split(), ["-"] * 3)

    def test_more_topics(self) -> None:
        """If there are more topics than listed, a line on standard error says so."""
        body = {"publications": [{"topic": f"t/{n}", "data": ""} for n in range(1000)]}
        self.control("POST", "/publish", json.dumps(body).encode())
        self.publish("one", "x")
        self.assertEqual(self.run_command("topics"), 0)
        self.assertEqual(self.stderr.getvalue(), "pushd: there are more than these 1000 topics\n")

    def test_unknown_id(self) -> None:
        """A topic without an id is listed with a dash."""
        answer: dict[str, Any] = {
            "topics": [{"topic": "t", "id": None, "history": 0, "subscribers": {}}]
        }
        body = json.dumps({**answer, "more": False}).encode()
        self.network.canned = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        self.assertIn("t      -        0     none\n", self.good("topics"))

    def test_connections(self) -> None:
        """The connections are listed in a table, without control characters."""
        self.start(token_keys=secret_keys())
        self.network.daemon = self.daemon
        for subject in ("ann", "b\x1b[31m"):
            given = token(subject, subscribe=["t"])
            self.daemon.connect(f"/topics/t?token={given}")
        self.publish("t", "abc")
        lines = [line.split() for line in self.good("connections").splitlines()]
        head = ["ID", "TRANSPORT", "PEER", "SINCE", "SUBJECT", "IN", "OUT", "PATH"]
        self.assertEqual(lines[0], head)
        self.assertEqual([line[0] for line in lines[1:]], ["1", "2"])
        self.assertEqual([line[4] for line in lines[1:]], ["ann", "b\\x1b[31m"])
        self.assertEqual([line[5:7] for line in lines[1:]], [["0/0B", "1/5B"]] * 2)
        said = self.good("connections", "--json").splitlines()
        self.assertEqual(json.loads(said[1])["subject"], "b\x1b[31m")

    def test_no_subject(self) -> None:
        """A connection without a token has a dash; without connections there is only the header."""
        self.assertEqual(len(self.good("connections").splitlines()), 1)
        RawWebSocketClient(self.daemon, "t")
        self.assertEqual(self.good("connections").splitlines()[1].split()[4], "-")

    def test_close(self) -> None:
        """A connection is closed with 1008, or with the given code and reason."""
        first, second = RawWebSocketClient(self.daemon, "t"), RawWebSocketClient(self.daemon, "t")
        self.assertEqual(self.good("close", "1"), "")
        self.good("close", "2", "--code", "4000", "--reason", "so")
        closings = [first.closing, second.closing]
        codes = [(one.code, one.reason) for one in closings if one is not None]
        self.assertEqual(codes, [(1008, "closed by an operator"), (4000, "so")])
        self.assertIn("no such connection", self.bad("close", "1"))
        self.assertIn("code", self.bad("close", "1", "--code", "x"))


class HealthTests(CommandTestCase):
    """``pushdctl health``."""

    def test_ready(self) -> None:
        """A daemon that is ready and alive is healthy, over TCP and over a Unix socket."""
        self.assertEqual(self.good("health"), "ready\n")
        self.assertEqual(self.good("health", "--live"), "alive\n")
        self.assertEqual(self.good("health", "--control", "unix:/run/control.sock"), "ready\n")
        self.assertEqual(json.loads(self.good("health", "--json")), {"status": "ready"})

    def test_not_ready(self) -> None:
        """While it drains it is not ready, for the reason that is printed, but it is alive."""
        self.daemon.connect("/topics/news")
        self.daemon.begin_stop()
        self.assertEqual(self.bad("health"), "not ready: draining (503)")
        self.assertEqual(self.good("health", "--live"), "alive\n")

    def test_page(self) -> None:
        """With --url, it gets a page instead: any answer of 2xx will do."""
        self.network.daemon = self.start(
            {"/": lambda request: "home", "/test": lambda request: "x"}
        )
        self.assertEqual(self.good("health", "--url", "http://127.0.0.1:8080"), "served\n")
        self.assertIn(b"GET / HTTP/1.1", self.network.sent[-1])
        self.good("--url", "http://127.0.0.1:8080/test/?a=b", "health")
        self.assertIn(b"GET /test/?a=b HTTP/1.1", self.network.sent[-1])
        # The operator's page.
        self.assertEqual(self.good("health", "--url", "unix:/run/control.sock"), "served\n")
        self.assertIn("(404)", self.bad("health", "--url", "http://127.0.0.1:8080/none/"))
        self.assertIn("the URL must be like", self.bad("health", "--url", "127.0.0.1"))

    def test_unreachable(self) -> None:
        """Without an answer it is not healthy; the line names the option for the address."""
        self.network.daemon = None
        self.assertIn("set with --control or PUSHD_CONTROL_URL", self.bad("health"))
        line = self.bad("health", "--url", "http://h:1/")
        self.assertTrue(line.endswith("Its address is set with --url"), line)

    def test_timeout(self) -> None:
        """The time-out is 5 s, or that of --timeout, which has bounds."""
        self.good("health")
        self.assertEqual(self.network.timeout, 5)
        self.good("health", "--timeout", "0.5")
        self.assertEqual(self.network.timeout, 0.5)
        for seconds in ("0", "601", "nan"):
            line = self.bad("health", "--timeout", seconds)
            self.assertEqual(
                line, f"--timeout {seconds}: must be a number of seconds above 0, up to 600"
            )


class RevokeTests(CommandTestCase):
    """``pushdctl revoke``."""

    def test_revoke(self) -> None:
        """Subscriptions end by topic and subject, and it is printed how many."""
        clients = [RawWebSocketClient(self.daemon, topic) for topic in ("a/1", "a/2", "b")]
        self.assertEqual(self.good("revoke", "--topic", "a/*", "--subject", "ann"), "0\n")
        self.assertEqual(self.good("revoke", "--topic", "a/*"), "2\n")
        self.assertEqual([one.closing is None for one in clients], [False, False, True])

    def test_mistakes(self) -> None:
        """Without topic and subject, or with a wrong pattern, it fails in one line."""
        self.assertIn("--topic, --subject or both", self.bad("revoke"))
        self.assertIn("topic pattern", self.bad("revoke", "--topic", "a//b"))


class TokenTests(CommandTestCase):
    """``pushdctl token``."""

    def test_make(self) -> None:
        """A token has the subject, the topics and the time that were given."""
        self.now = 1000.5
        key = self.write(SECRET + b"\n")
        patterns = ("--subscribe", "news", "--subscribe", "chat/*", "--publish", "a/**")
        made = self.good("token", "--key", key, "--sub", "u", *patterns, "--ttl", "60").strip()
        identity = secret_keys().verify(made, self.now)
        self.assertEqual((identity.subject, identity.expires), ("u", 1060))
        self.assertEqual(identity.subscribe, ("news", "chat/*"))
        self.assertEqual(identity.publish, ("a/**",))
        identity = secret_keys().verify(self.good("token", "--key", key).strip(), self.now)
        self.assertEqual((identity.subject, identity.expires), ("", 4600))

    def test_private_key(self) -> None:
        """A token can be made with a private key."""
        made = self.good("token", "--key", self.write(private_pem("EdDSA"))).strip()
        from pushd.access.keys import read_keys

        keys = TokenKeys(read_keys(self.write(public_pem("EdDSA"))))
        self.assertEqual(keys.verify(made, 0).expires, 3600)

    def test_bad(self) -> None:
        """A bad key, pattern or time is an error of one line."""
        key = self.write(SECRET)
        for args, said in (
            (["--key", "/none"], "/none: cannot be read: No such file"),
            (["--key", self.write(b"short")], "at least 32 bytes"),
            (["--key", key, "--subscribe", "a b"], "--subscribe a b: must be a topic pattern"),
            (["--key", key, "--publish", "**/a"], "--publish **/a: must be a topic pattern"),
            (["--key", key, "--ttl", "0"], "--ttl 0"),
            (["--key", key, "--ttl", "nan"], "--ttl nan"),
            (["--key", key, "--ttl", "x"], "--ttl"),
            ([], "--key"),
        ):
            self.assertIn(said, self.bad("token", *args))


class CheckTests(CommandTestCase):
    """``pushdctl check``."""

    def test_good(self) -> None:
        """The effective values are printed."""
        said = self.good("check", "--listen", "tcp:1", "--max-rate=7").splitlines()
        self.assertIn('listen = ["tcp:1"]  # --listen', said)
        self.assertIn("max-rate = 7  # --max-rate", said)
        self.assertIn("threads = 64  # default", said)

    def test_sources(self) -> None:
        """The file and the environment are used as by the daemon, and passwords are masked."""
        path = self.write(b"threads = 8\n")
        self.environ |= {"PUSHD_DRAIN": "7", "PUSHD_BROKER": "redis://:secret@127.0.0.1:1/0"}
        said = self.good("check", "--config", path)
        self.assertIn(f"threads = 8  # {path}: threads\n", said)
        self.assertIn("drain = 7  # PUSHD_DRAIN\n", said)
        self.assertIn('broker = "redis://***@127.0.0.1:1/0"  # PUSHD_BROKER\n', said)

    def test_bad(self) -> None:
        """A mistake is reported as by the daemon."""
        self.assertEqual(
            self.bad("check", "--threads", "x"), "--threads x: must be a number from 1 to 100000"
        )

    def test_all_mistakes(self) -> None:
        """Each mistake is one line, with its file and key."""
        path = self.write(b"treads = 8\ndrain = true\n")
        self.assertEqual(self.run_command("check", "--config", path), 1)
        self.assertEqual(
            self.stderr.getvalue(),
            f"pushd: {path}: unknown option treads: did you mean threads?\n"
            f"pushd: {path}: drain true: must be a number, without quotes\n",
        )

    def test_warning(self) -> None:
        """So is a control port that other machines may reach, which is no mistake."""
        self.assertEqual(self.run_command("check", "--control", "tcp:1"), 0)
        self.assertIn('control = ["tcp:1"]', self.stdout.getvalue())
        self.assertTrue(self.stderr.getvalue().startswith("pushd: warning: --control tcp:1: "))

    def test_version(self) -> None:
        """Options that print something and exit are allowed, too."""
        code = self.run_command("check", "--version")
        self.assertEqual((code, self.stdout.getvalue()), (0, f"pushd {__version__}\n"))


class OutputTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a file to print to."""
        self.file = io.StringIO()

    def test_columns(self) -> None:
        """Each column is as wide as its widest cell, and no line ends with blanks."""
        print_table(["ID", "NAME"], [["1", "somebody"], ["1000", ""]], self.file)
        self.assertEqual(self.file.getvalue(), "ID    NAME\n1     somebody\n1000\n")

    def test_empty(self) -> None:
        """A table without rows is its header."""
        print_table(["ID", "NAME"], [], self.file)
        self.assertEqual(self.file.getvalue(), "ID  NAME\n")

    def test_printable(self) -> None:
        """Control characters are escaped, so that no text starts a row or sends a command."""
        print_table(["NAME"], [["tschüß\n\x1b[31m"]], self.file)
        self.assertEqual(self.file.getvalue(), "NAME\ntschüß\\n\\x1b[31m\n")
        self.assertEqual(printable("a\u202eb\t"), "a\\u202eb\\t")

    def test_json(self) -> None:
        """Each value is one line, and characters beyond ASCII are not escaped."""
        values: list[Any] = [{"a": "ü\n"}, None]
        print_json(values, self.file)
        self.assertEqual(self.file.getvalue(), '{"a": "ü\\n"}\nnull\n')

    def test_json_without_controls(self) -> None:
        """What a terminal could obey, or is not visible, is escaped in JSON, too."""
        value = "\x1b[31m\x9b31m\x7f\u202e\U000e0001\u2028\ud800"
        print_json([value], self.file)
        self.assertTrue(self.file.getvalue().removesuffix("\n").isprintable())
        self.assertEqual(json.loads(self.file.getvalue()), value)
