"""``pushdctl bench``: its load, its figures, and what ends it."""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.client.bench import Result
from tests.client.command_case import CommandTestCase
from tests.support.fake_network import FakeSelector
from tests.support.keyring import secret_keys, token

SMALL = ("--subscribers", "3", "--publications", "4")


class BenchTests(CommandTestCase):
    """A load on a daemon in memory, where a delivery takes no time."""

    def bench(self, *args: str) -> dict[str, object]:
        """Run it, and return its figures."""
        figures: dict[str, object] = json.loads(self.good("bench", "--json", *args))
        return figures

    def first(self, call: Callable[[], object]) -> None:
        """Do something when the command first waits, and then let the time pass."""
        calls = [call]

        def advance(seconds: float) -> None:
            while calls:
                calls.pop()()
            self.daemon.advance(seconds)

        self.selector = FakeSelector(advance)

    def test_figures(self) -> None:
        """Each subscriber gets each publication; all WebSockets end normally."""
        figures = self.bench(*SMALL)
        self.assertEqual((figures["deliveries"], figures["lost"]), (12, 0))
        self.assertEqual((figures["size"], figures["rate"]), (128, None))
        self.daemon.advance(1)
        self.assertIn(b'pushd_closed_total{code="1000"', self.control("GET", "/metrics").body)
        self.assertEqual(json.loads(self.control("GET", "/connections").body)["connections"], [])

    def test_text(self) -> None:
        """For people it is four lines."""
        lines = self.good("bench", *SMALL).splitlines()
        self.assertEqual(len(lines), 4)
        self.assertIn("3 subscribers over WebSocket, 4 publications of 128 bytes, each", lines[0])
        self.assertIn("12 in 0.00 s: 0 per second, none lost", lines[1])
        self.assertIn("p50 0.0 ms, p95 0.0 ms, p99 0.0 ms, max 0.0 ms", lines[2])
        self.assertIn("used 0.00 of a processor", lines[3])

    def test_rate(self) -> None:
        """At a rate, publications are due at regular times."""
        figures = self.bench("--rate", "2", *SMALL)
        self.assertEqual((figures["seconds"], figures["per_second"]), (1.5, 8))
        self.assertEqual((figures["rate"], figures["busy"]), (2, 0.5))
        self.assertIn(", 2 per second", self.good("bench", "--rate", "2", *SMALL))

    def test_late(self) -> None:
        """At a rate, latency counts from when a publication was due, not from when it was made."""
        self.first(lambda: self.daemon.advance(3))
        figures = self.bench("--rate", "1", "--publications", "2", "--subscribers", "1")
        latency = figures["latency_ms"]
        assert isinstance(latency, dict)
        # The second one was due at 1 s, and 4 s had passed.
        self.assertEqual((latency["p50"], latency["max"]), (0, 3000))

    def test_size(self) -> None:
        """Publications have the given size and topic."""
        self.good("bench", *SMALL, "--size", "70000", "--topic", "big")
        answer = self.daemon.request("GET", "/topics/big?after=&wait=0")
        assert answer is not None
        sizes = [len(one["data"]) for one in json.loads(answer.body)["publications"]]
        self.assertEqual(sizes, [])
        self.assertEqual(json.loads(self.control("GET", "/topics/big").body)["history"], 4)

    def test_ping(self) -> None:
        """Pings are answered: a load that takes longer than a ping may wait ends well."""
        figures = self.bench("--rate", "1", "--publications", "60", "--subscribers", "1")
        self.assertEqual(figures["deliveries"], 60)

    def test_pieces(self) -> None:
        """Messages may arrive in pieces, from the answer to the handshake on."""
        self.network.piece = 7
        self.assertEqual(self.bench(*SMALL)["deliveries"], 12)

    def test_tls(self) -> None:
        """What TLS has decrypted already is read; what it has only in part is waited for."""
        self.network.record, self.network.incomplete = 50, 2
        self.assertEqual(self.bench(*SMALL)["deliveries"], 12)

    def test_lost(self) -> None:
        """What is not delivered within ten seconds is lost: the exit code is 1."""
        self.selector.watched = 2
        code = self.run_command("bench", "--json", *SMALL, "--rate", "10")
        figures = json.loads(self.stdout.getvalue())
        self.assertEqual((code, figures["deliveries"], figures["lost"]), (1, 4, 8))
        self.assertEqual(self.stderr.getvalue(), "pushd: 8 deliveries did not come within 10 s\n")

    def test_refused(self) -> None:
        """What the daemon refuses is one line: a subscriber, or the publisher."""
        self.network.daemon = self.start(limits=Limits(max_connections=2))
        self.assertIn("connection limit reached", self.bad("bench", *SMALL))
        self.network.daemon = self.start(limits=Limits(max_message=100))
        self.assertIn("(413)", self.bad("bench", *SMALL))

    def test_token(self) -> None:
        """Where a token is required, it is sent."""
        self.network.daemon = self.start(token_keys=secret_keys())
        self.assertIn("a token is required", self.bad("bench", *SMALL))
        given = token(subscribe=["bench/*"])
        self.good("bench", *SMALL, "--token", given)

    def test_closed(self) -> None:
        """If a subscriber is closed, that ends it, with the code and the reason."""
        self.first(lambda: self.control("DELETE", "/connections/1?code=4000&reason=enough"))
        line = self.bad("bench", *SMALL, "--rate", "1")
        self.assertEqual(line, "a subscriber was closed: 4000 enough")

    def test_disconnected(self) -> None:
        """So does the end of its connection."""
        self.first(lambda: self.network.connections[0].leave())
        line = self.bad("bench", *SMALL, "--rate", "1")
        self.assertEqual(line, "a subscriber was disconnected")

        def reset() -> None:
            self.network.reset = True

        self.first(reset)
        line = self.bad("bench", *SMALL, "--rate", "1")
        self.assertIn("a subscriber was disconnected: [Errno 104]", line)

    def test_disturbed(self) -> None:
        """A publication of somebody else would spoil the figures, and ends it."""
        self.first(lambda: self.publish("mine", "7 x"))
        line = self.bad("bench", *SMALL, "--rate", "1", "--topic", "mine")
        self.assertEqual(line, "a subscriber got publication 7, not 1")

    def test_unreachable(self) -> None:
        """Without a daemon, the line names the options for both addresses."""
        self.network.daemon = None
        line = self.bad("bench")
        self.assertIn("http://127.0.0.1:8080 does not respond", line)
        self.assertTrue(line.endswith("Its address is set with --url and --control"), line)

    def test_bounds(self) -> None:
        """The load is bounded: in each number, in all deliveries, and in time."""
        for args, line in (
            ("--subscribers 0", "--subscribers 0: must be a number from 1 to 1000"),
            ("--publications 1000000", "--publications 1000000: must be a number from 1 to 100000"),
            ("--size 1", "--size 1: must be a number from 16 to 1048576"),
            ("--rate 0", "--rate 0: must be a number from 1 to 10000"),
            (
                "--subscribers 1000 --publications 6000",
                "--subscribers times --publications must be 5000000 or less; got 6000000",
            ),
            (
                "--publications 1000 --rate 1",
                "--publications by --rate must be 600 seconds or less; got 1000",
            ),
        ):
            self.assertEqual(self.bad("bench", *args.split()), line)


class ResultTests(SynchronousTestCase):
    def test_percentiles(self) -> None:
        """A percentile is a latency that was measured: the one at its rank, rounded up."""
        for count, found in ((0, [0, 0, 0]), (1, [0, 0, 0]), (100, [49, 98, 99]), (3, [1, 2, 2])):
            latencies = [float(one) for one in range(count)]
            result = Result(deliveries=count, lost=0, seconds=0, latencies=latencies, busy=0)
            self.assertEqual([result.percentile(one) for one in (0.5, 0.99, 1)], found)
