"""Plain connections of the testing kit."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from pushd.testing import Answer, Daemon
from tests.support.peer import TEXT, handshake, read_frames, serve
from tests.support.peer import frame as make_frame
from tests.testing.test_daemon import echo


class WireTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/echo/": echo})

    def test_chunks(self) -> None:
        """A chunked response is put together."""

        class Pieces(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                request.write(b"one ")
                request.write(b"two")
                request.finish()
                return NOT_DONE_YET

        serve(self.daemon, Pieces())
        answer = self.daemon.get("/")
        assert answer is not None
        self.assertEqual(answer.text, "one two")

    def test_no_answer_yet(self) -> None:
        """There is no answer before the response is complete."""
        waiting: list[Any] = []

        class Slow(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                request.setHeader("Content-Length", "4")
                waiting.append(request)
                return NOT_DONE_YET

        serve(self.daemon, Slow())
        connection = self.daemon.open_connection()
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIsNone(connection.answer())
        waiting[0].write(b"ab")
        self.daemon.settle()
        self.assertIsNone(connection.answer())
        waiting[0].write(b"cd")
        waiting[0].finish()
        self.daemon.settle()
        answer = connection.answer()
        assert isinstance(answer, Answer)
        self.assertEqual(answer.text, "abcd")
        self.assertIsNone(self.daemon.get("/"))

    def test_wire(self) -> None:
        """A plain connection records every byte, and its end."""
        connection = self.daemon.open_connection()
        self.assertEqual((connection.received, connection.closed), (b"", False))
        connection.send(handshake("/echo/"))
        head = len(connection.received)
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 101 "))
        connection.send(make_frame(TEXT, b"x"))
        self.assertEqual(
            [frame.payload for frame in read_frames(connection.received[head:])], [b"x"]
        )
        connection.leave()
        self.assertTrue(connection.closed)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_server_closes(self) -> None:
        """A connection that the server closes is recorded as closed."""
        connection = self.daemon.open_connection()
        connection.send(b"GET /echo/ HTTP/1.0\r\n\r\n")
        self.assertTrue(connection.closed)
