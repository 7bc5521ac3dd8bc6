"""What a publication over Redis costs a node: commands, pieces, function calls.

A stop-watch would only measure the machine, so these are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from pushd.topics.history import Retention
from pushd.topics.publication import Publication
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.revocations import READ_REVOCATIONS
from pushd.topics.redis.scripts import PUBLISH, REPLAY, SETTLE, RedisNames
from pushd.topics.redis.session import open_session
from tests.support.call_counts import calls_of
from tests.topics.redis.test_session import SessionTestCase

# The most function calls that some work may take, those of the test included: an eighth more than
# it takes now.
MOST_CALLS = {
    # To publish, from the call to the id.
    "publish": 112,
    # To take a message, and pass it to the hub.
    "message": 40,
}

DATA = "x" * 128


class CostTests(SessionTestCase):
    """A node with one topic, over connections in memory."""

    def setUp(self) -> None:
        """Connect the node."""
        super().setUp()
        self.written: list[bytes] = []
        self.delivered: list[Publication] = []
        self.answers[b"EVALSHA"] = self.answer_script
        self.broker = RedisBroker(
            self.clock,
            partial(open_session, self.clock, RedisAddress(path="/r"), write=self.write),
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: "fresh",
        )
        self.addCleanup(self.broker.stop)
        self.broker.start(self.delivered.append)
        for call, args, arguments in self.clock.whenRunningHooks:
            call(*args, **arguments)
        self.serve()
        self.broker.follow("t")
        self.serve()
        self.asked.clear()
        self.written.clear()

    def write(self, transport: Any, data: bytes) -> None:
        """Write at once, and record that."""
        self.written.append(data)
        transport.write(data)

    def answer_script(self, command: Sequence[bytes]) -> bytes:
        """Answer a script as Redis would for an empty topic."""
        digest = command[1].decode()
        if digest == SETTLE.sha1:
            return b"$1\r\ng\r\n"
        if digest == REPLAY.sha1:
            return b"*6\r\n$1\r\ne\r\n$1\r\n0\r\n:0\r\n$1\r\n0\r\n*0\r\n$1\r\n0\r\n"
        if digest == READ_REVOCATIONS.sha1:
            return b"*0\r\n"
        self.assertEqual(digest, PUBLISH.sha1)
        return b"*1\r\n$3\r\ne:1\r\n"

    def message(self, number: int) -> bytes:
        """Return the message of a publication."""
        message = f"e:{number} {number} t{DATA}".encode()
        return b">3\r\n$7\r\nmessage\r\n$9\r\npushd:0:t\r\n$%d\r\n%b\r\n" % (len(message), message)

    def publish(self) -> Deferred[Any]:
        """Publish."""
        return self.broker.publish("t", DATA)

    def test_alone(self) -> None:
        """A publication is one command in one write; message and answer come in one piece."""
        publishing = self.publish()
        self.assertEqual(len(self.written), 1)
        [[name, *_]] = self.peers[1].read()
        self.assertEqual(name, b"EVALSHA")
        self.assertEqual(self.peers[0].read(), [])
        self.peers[1].send(self.message(1) + b"*1\r\n$3\r\ne:1\r\n")
        self.assertEqual(str(self.successResultOf(publishing)), "e:1")
        self.assertEqual([one.data for one in self.delivered], [DATA])

    def test_together(self) -> None:
        """Of several, only the first is written at once: the others leave together."""
        publishing = [self.publish() for _ in range(10)]
        self.assertEqual(len(self.written), 1)
        self.serve()
        self.assertEqual(len(self.asked), 10)
        for one in publishing:
            self.successResultOf(one)

    def test_calls_of_publishing(self) -> None:
        """Function calls from the publication to its id."""
        self.publish()
        self.serve()

        def publish() -> None:
            publishing = self.publish()
            self.peers[1].send(b"*1\r\n$3\r\ne:1\r\n")
            self.successResultOf(publishing)

        self.assertLess(calls_of(publish), MOST_CALLS["publish"])

    def test_calls_of_a_message(self) -> None:
        """Function calls from a message to the hub."""
        message = self.message(1)
        self.assertLess(calls_of(lambda: self.peers[1].send(message)), MOST_CALLS["message"])
        self.assertEqual(len(self.delivered), 1)
