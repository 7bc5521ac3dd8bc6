"""HTTP requests of an ASGI application."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

from twisted.internet.defer import CancelledError

from pushd.access.memory import Usage
from pushd.gateways.asgi.scope import Receive, Scope, Send
from tests.support.asgi_case import AsgiTestCase, Recorder, body, start
from tests.support.peer import Peer, request

OUTER, INNER = ContextVar[str]("OUTER"), ContextVar[str]("INNER")


class ResponseTests(AsgiTestCase):
    """What an application answers."""

    def test_whole(self) -> None:
        """A response in one part has the length of that, and the application's headers alone."""
        self.serve(Recorder(start(201, content_type="text/plain", x_a="b"), body(b"hello")))
        answer = self.ask()
        self.assertEqual((answer.status, answer.body), (201, b"hello"))
        self.assertEqual(answer.headers["content-length"], "5")
        self.assertEqual(answer.headers["x-a"], "b")
        self.assertNotIn("x-content-type-options", answer.headers)

    def test_parts(self) -> None:
        """A response in several parts is sent in chunks as they come; an empty one ends it."""
        self.serve(Recorder(start(), body(b"ab", more=True), body(b"cd", more=True), body()))
        answer = self.ask()
        self.assertEqual(answer.body, b"abcd")
        self.assertEqual(answer.headers["transfer-encoding"], "chunked")

    def test_head(self) -> None:
        """The answer to HEAD has the headers of the page, and no body."""
        self.serve(Recorder(start(content_length="5"), body(b"hello")))
        answer = self.ask(method="HEAD")
        self.assertEqual((answer.headers["content-length"], answer.body), ("5", b""))

    def test_no_content(self) -> None:
        """A 204 has neither body nor length."""
        self.serve(Recorder(start(204), body()))
        answer = self.ask()
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertNotIn("content-length", answer.headers)

    def test_hop_by_hop(self) -> None:
        """Headers that are about the connection are the server's alone."""
        self.serve(Recorder(start(connection="close", transfer_encoding="chunked"), body(b"hello")))
        self.assertEqual(self.ask().headers["content-length"], "5")

    def test_header_values(self) -> None:
        """Values may have tabs, spaces and bytes that are no ASCII; any iterable gives headers."""
        values = [b"<\t>", b"< >", "<µ>".encode()]
        headers = ((b"x", value) for value in values)
        self.serve(Recorder({**start(), "headers": headers}, body()))
        peer = self.send_raw(request("GET / HTTP/1.1", "Host: a"))
        for value in values:
            self.assertIn(b"\r\nX: " + value + b"\r\n", bytes(peer.received))

    def test_returned_value(self) -> None:
        """What the application returns is ignored."""

        async def application(scope: Scope, receive: Receive, send: Send) -> int:
            if scope["type"] == "http":
                await send(start())
                await send(body(b"ok"))
            return 123

        self.serve(application)
        self.assertEqual(self.ask().body, b"ok")

    def test_after_end(self) -> None:
        """What comes after a complete response raises; the client has its response."""
        self.serve(Recorder(start(), body(b"ok"), body(b"more")))
        self.assertEqual(self.ask().body, b"ok")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_raises_cancelled(self) -> None:
        """An application that raises CancelledError by itself has failed: a 500."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                raise asyncio.CancelledError

        self.serve(application)
        self.assertEqual(self.ask().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_trailers(self) -> None:
        """Trailers are ignored."""
        trailers = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
        self.serve(Recorder({**start(), "trailers": True}, body(b"a"), trailers))
        self.assertEqual(self.ask().body, b"a")

    def test_keep_alive(self) -> None:
        """The next request on a connection is answered as well."""
        self.serve(Recorder(start(), body(b"ok")))
        peer = self.send_raw(request("GET / HTTP/1.1", "Host: a") * 2)
        self.assertEqual(bytes(peer.received).count(b"\r\n\r\nok"), 2)

    def test_pipelined(self) -> None:
        """Requests that are sent at once are answered one by one, in order."""
        running: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            running.append(scope["path"])
            await asyncio.sleep(1)
            await send(start())
            await send(body(scope["path"].encode()))

        self.serve(application)
        lines = [request(f"GET /{name} HTTP/1.1", "Host: a") for name in "abc"]
        peer = self.send_raw(b"".join(lines))
        for done in range(4):
            self.assertEqual(running, ["/a", "/b", "/c"][: done + 1])
            self.assertEqual(bytes(peer.received).count(b"\r\n\r\n/"), done)
            peer.advance(1)
        self.assertTrue(peer.received.endswith(b"/c"))

    def test_keep_alive_time_out(self) -> None:
        """An idle connection is closed after --keep-alive; one that waits for its answer is not."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await asyncio.sleep(20)
                await send(start())
                await send(body(b"ok"))

        self.serve(application, keep_alive=5)
        peer = self.send_raw(request("GET / HTTP/1.1", "Host: a"))
        peer.advance(20)
        self.assertEqual(peer.body, b"ok")
        peer.advance(4.9)
        self.assertIsNone(peer.lost)
        peer.advance(0.2)
        self.assertIsNotNone(peer.lost)

    def test_close(self) -> None:
        """A client that asks for it has its connection closed; nothing behind that is answered."""
        self.serve(Recorder(start(), body(b"ok")))
        for method, more in (("GET", b""), ("POST", b"ab")):
            with self.subTest(method=method):
                length = (f"Content-Length: {len(more)}",) if more else ()
                lines = ("Host: a", "Connection: close", *length)
                peer = self.send_raw(
                    request(f"{method} / HTTP/1.1", *lines) + more,
                    request("GET /second HTTP/1.1", "Host: a"),
                )
                self.assertIn("\r\nConnection: close", peer.head)
                self.assertEqual(peer.body, b"ok")
                self.assertIsNotNone(peer.lost)

    def test_date(self) -> None:
        """The server sets Date, unless the application does; Server is the application's alone."""
        self.serve(Recorder(start(), body()))
        answer = self.ask()
        self.assertRegex(answer.headers["date"], r"GMT$")
        self.assertNotIn("server", answer.headers)
        self.serve(Recorder(start(date="then", server="a"), body()))
        answer = self.ask()
        self.assertEqual(answer.headers.get_all("server"), ["a"])
        self.assertEqual(answer.headers.get_all("date"), ["then"])

    def test_long_parts(self) -> None:
        """A slow client holds the application: it goes on when the transport is empty."""
        sent: list[int] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            for number in range(10):
                await send(body(bytes(100_000), more=True))
                sent.append(number)
            await send(body())

        self.serve(application)
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET / HTTP/1.1", "Host: a"))
        self.assertEqual(sent, [])
        peer.resume()
        while len(sent) < 10 and peer.lost is None:
            peer.settle()
        self.assertEqual(sent, list(range(10)))
        self.assertIn(b"\r\n0\r\n\r\n", peer.received[-9:])
        peer.vanish()

    def test_mistakes(self) -> None:
        """An event that cannot be sent, or cannot come now, raises for the application."""
        cases: list[tuple[list[Any], type[Exception], str]] = [
            ([start(99)], ValueError, "status must be 200 to 599; got 99"),
            ([{**start(), "status": "200"}], TypeError, "status must be an int, not str"),
            ([{"type": "http.response.start"}], KeyError, "status"),
            ([{**start(), "headers": [("a", b"b")]}], TypeError, "headers consist of bytes"),
            ([{**start(), "headers": [(b"a b", b"c")]}], ValueError, "is not a header name"),
            ([{**start(), "headers": [(b"a", b"b\r\nc: d")]}], ValueError, "line break"),
            ([start(content_length="x")], ValueError, "Content-Length must be one number"),
            ([start(), body("text")], TypeError, "a body consists of bytes, not str"),
            ([start(), start()], RuntimeError, "its head has been given"),
            ([body()], RuntimeError, "it has not begun"),
            ([{"type": "http.request"}], RuntimeError, "the application sent 'http.request'"),
            ([], RuntimeError, "it has not begun"),
            ([start()], RuntimeError, "its head has been given"),
        ]
        for events, kind, text in cases:
            with self.subTest(text=text, events=events):
                self.serve(Recorder(*events))
                answer = self.ask()
                self.assertEqual(answer.status, 500)
                (failure,) = self.flushLoggedErrors(kind)
                self.assertIn(text, failure.getErrorMessage())

    def test_failure_in_body(self) -> None:
        """A response that fails in its middle is broken off, so as not to look complete."""
        self.serve(Recorder(start(), body(b"ab", more=True)))
        peer = self.send_raw(request("GET / HTTP/1.1", "Host: a"))
        self.assertTrue(peer.received.endswith(b"ab\r\n"))
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_wrong_length(self) -> None:
        """No more is sent than the Content-Length says; another length breaks the connection."""
        for length, parts in (("1", [body(b"ab")]), ("3", [body(b"ab")])):
            with self.subTest(length=length):
                self.serve(Recorder(start(content_length=length), *parts))
                peer = self.send_raw(request("GET / HTTP/1.1", "Host: a"))
                self.assertEqual(peer.body, b"ab"[: int(length)])
                self.assertIsNotNone(peer.lost)
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_failures_are_counted(self) -> None:
        """Exceptions of the application count as errors of views, and name path and peer."""
        self.serve(Recorder())
        self.ask("/a")
        self.flushLoggedErrors(RuntimeError)
        answer = self.ask("/metrics", control=True)
        self.assertIn("pushd_view_errors_total 1.0", answer.text)


class RequestTests(AsgiTestCase):
    """What an application receives."""

    def collect(self, *, wait: bool = False, **settings: Any) -> list[dict[str, Any]]:
        """Serve an application that reads the body, and answers with its length."""
        received: list[dict[str, Any]] = []
        self.go = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            if wait:
                await self.go.wait()
            size, more = 0, True
            while more:
                received.append(await receive())
                more = received[-1].get("more_body", False)
                size += len(received[-1].get("body", b""))
            await send(start())
            await send(body(b"%d" % size))

        self.serve(application, **settings)
        return received

    def test_invalid(self) -> None:
        """A request that is not valid HTTP is refused before the application is called."""
        received = self.collect()
        for line in (
            "G?T / HTTP/1.1",
            "GET /?x=y z HTTP/1.1",
            "GET / HTTP1.1",
            "GET /\xe4 HTTP/1.1",
            "GET / HTTP/1.1\r\nfoo bar: baz",
            "GET / HTTP/1.1\r\nfoo\x01bar: baz",
        ):
            with self.subTest(line=line):
                peer = self.send_raw(f"{line}\r\nHost: a\r\n\r\n".encode("latin-1"))
                self.assertTrue(peer.head.startswith("HTTP/1.1 400 "), peer.head)
        self.assertEqual(received, [])

    def test_other_upgrade(self) -> None:
        """An upgrade to another protocol, such as HTTP/2, is ignored, as HTTP allows."""
        self.collect()
        headers = ("Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
        peer = self.send_raw(request("GET / HTTP/1.1", *headers))
        self.assertTrue(peer.head.startswith("HTTP/1.1 200 "))

    def test_no_body(self) -> None:
        """A request without a body is one event."""
        received = self.collect()
        self.assertEqual(self.ask().body, b"0")
        self.assertEqual(received, [{"type": "http.request", "body": b"", "more_body": False}])

    def test_whole_body(self) -> None:
        """A body that arrives with its head is one event."""
        received = self.collect()
        self.assertEqual(self.ask(method="POST", body=b"hello").body, b"5")
        self.assertEqual(received, [{"type": "http.request", "body": b"hello", "more_body": False}])

    def test_parts(self) -> None:
        """A body that arrives slowly is told as it arrives."""
        received = self.collect()
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Content-Length: 4"), b"ab", b"cd"
        )
        self.assertEqual(peer.body, b"4")
        self.assertEqual([one["body"] for one in received], [b"ab", b"cd"])
        self.assertEqual([one["more_body"] for one in received], [True, False])

    def test_chunks(self) -> None:
        """A body in chunks may end with an empty event."""
        received = self.collect()
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"),
            b"2\r\nab\r\n",
            b"0\r\n\r\n",
        )
        self.assertEqual(peer.body, b"2")
        self.assertEqual([one["body"] for one in received], [b"ab", b""])

    def test_any_pieces(self) -> None:
        """A body arrives whole, in pieces of any size."""
        text = b"The quick brown fox jumps over the lazy dog"
        for size in (1, 2, 7, 42, 100):
            with self.subTest(size=size):
                received = self.collect()
                pieces = [text[at : at + size] for at in range(0, len(text), size)]
                head = request("POST / HTTP/1.1", "Host: a", f"Content-Length: {len(text)}")
                peer = self.send_raw(head, *pieces)
                self.assertEqual(peer.body, b"43")
                self.assertEqual(b"".join(one["body"] for one in received), text)

    def test_split_head(self) -> None:
        """A head may arrive in pieces, split anywhere."""
        received = self.collect()
        head = request("GET /?param=qqqqqqqqqq HTTP/1.1", "Host: a")
        for at in range(1, len(head)):
            peer = self.send_raw(head[:at], head[at:])
            self.assertTrue(peer.head.startswith("HTTP/1.1 200 "), at)
        self.assertEqual(len(received), len(head) - 1)

    def test_context(self) -> None:
        """Context variables of one request are not those of the next, nor of the daemon's tasks."""
        seen: list[str | None] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            seen.extend([OUTER.get(None), INNER.get(None)])
            INNER.set(scope["path"])
            await send(start())
            await send(body())

        OUTER.set("at the start")
        self.serve(application)
        self.ask("/first")

        def ask_within_other() -> None:
            INNER.set("of another request")
            self.ask("/second")

        copy_context().run(ask_within_other)
        self.assertEqual(seen, ["at the start", None] * 2)

    def test_back_pressure(self) -> None:
        """Reading pauses when 64 KiB wait for the application, and goes on when it has read."""
        self.collect(wait=True)
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Content-Length: 200000"), bytes(100_000)
        )
        self.assertTrue(peer.server.reading_paused)
        # The time for a body does not pass meanwhile.
        self.daemon.advance(120)
        self.assertIsNone(peer.lost)
        self.go.set()
        self.daemon.settle()
        peer.send(bytes(100_000))
        self.assertEqual(peer.body, b"200000")

    def test_body_of_a_slow_reader(self) -> None:
        """A body is read on only when the client has taken enough of the answer."""
        sizes: list[int] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            sending = asyncio.ensure_future(send(body(bytes(200_000), more=True)))
            await asyncio.sleep(1)
            while sum(sizes) < 200_000:
                sizes.append(len((await receive())["body"]))
            await sending
            await send(body())

        self.serve(application)
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("POST / HTTP/1.1", "Host: a", "Content-Length: 200000") + bytes(100_000))
        self.assertEqual(self.held(), 100_000)
        peer.advance(1)
        self.assertTrue(peer.server.reading_paused)
        peer.resume()
        peer.send(bytes(100_000))
        self.assertEqual(sum(sizes), 200_000)
        self.assertTrue(peer.received.endswith(b"\r\n0\r\n\r\n"))
        peer.vanish()

    def held(self) -> int:
        """Return the bytes of bodies that wait for the application."""
        sites: list[Any] = self.daemon._sites
        usage = Usage()
        for channel in list(sites[0].connections._open):
            channel.count_memory(usage)
        return usage.request

    def test_too_large(self) -> None:
        """A body beyond the limit is refused, and the application is told that the client left."""
        received = self.collect(max_body=1 << 17)
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"),
            b"20000\r\n" + bytes(1 << 17) + b"\r\n",
            b"1\r\na\r\n",
        )
        self.assertTrue(peer.head.startswith("HTTP/1.1 413 "))
        self.assertEqual(peer.body, b"body must be at most 131072 bytes (--max-body); got 131073\n")
        self.assertEqual(sum(len(one.get("body", b"")) for one in received), 1 << 17)
        self.assertEqual(received[-1], {"type": "http.disconnect"})
        peer.vanish()

    def test_too_slow(self) -> None:
        """A body that comes too slowly is refused; the application is told."""
        received = self.collect()
        peer = self.send_raw(request("POST / HTTP/1.1", "Host: a", "Content-Length: 100000"), b"a")
        peer.advance(20)
        self.assertTrue(peer.head.startswith("HTTP/1.1 408 "))
        self.assertEqual(received[-1], {"type": "http.disconnect"})

    def test_refused_behind_start(self) -> None:
        """A body that is refused while its answer is being sent breaks the connection off."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            await send(body(b"begun", more=True))
            while (await receive())["type"] != "http.disconnect":
                pass

        self.serve(application)
        peer = self.send_raw(request("POST / HTTP/1.1", "Host: a", "Content-Length: 100000"), b"a")
        peer.advance(20)
        self.assertNotIn(b" 408 ", peer.received)
        self.assertIsNotNone(peer.lost)

    def test_answer_before_body(self) -> None:
        """If the answer is complete before the body is, the rest is dropped."""
        self.serve(Recorder(start(403), body(b"no")))
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Content-Length: 100"), b"a" * 10
        )
        self.assertTrue(peer.head.startswith("HTTP/1.1 403 "))
        # What follows is never taken for a request.
        peer.send(request("GET /second HTTP/1.1", "Host: a"))
        self.assertEqual(peer.body, b"no")
        self.daemon.advance(5)
        self.assertIsNotNone(peer.lost)

    def test_disconnect(self) -> None:
        """A client that leaves is told as http.disconnect; what is sent then raises OSError."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            told.append(await receive())
            told.append(await receive())
            try:
                await send(start())
            except OSError as error:
                told.append(str(error))
                raise

        self.serve(application)
        self.send_raw(request("GET / HTTP/1.1", "Host: a")).vanish()
        self.assertEqual(told[1:], [{"type": "http.disconnect"}, "the client has left"])

    def test_cancelled_receive(self) -> None:
        """A task that waited for the end, and was cancelled, hinders nothing."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await receive()
                waiting = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                waiting.cancel()
                await send(start())
                await send(body(b"ok"))

        self.serve(application)
        self.assertEqual(self.ask().body, b"ok")

    def test_disconnect_in_body(self) -> None:
        """A client that leaves in the middle of its body is told, too."""
        received = self.collect()
        peer = self.send_raw(request("POST / HTTP/1.1", "Host: a", "Content-Length: 4"), b"ab")
        peer.vanish()
        self.assertEqual(received[-1], {"type": "http.disconnect"})

    def test_disconnect_while_sending(self) -> None:
        """An application that waits for room goes on when the client leaves."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            try:
                while True:
                    await send(body(bytes(100_000), more=True))
            except OSError:
                ended.append("told")

        self.serve(application)
        peer = Peer(self.daemon)
        peer.stall()
        peer.send(request("GET / HTTP/1.1", "Host: a"))
        peer.vanish()
        self.assertEqual(ended, ["told"])

    def test_disconnect_after_response(self) -> None:
        """After the response, what receives gets http.disconnect."""
        told: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await receive()
            waiting = asyncio.ensure_future(receive())
            await send(start())
            await send(body(b"ok"))
            told.append(await waiting)

        self.serve(application)
        self.assertEqual(self.ask().body, b"ok")
        self.assertEqual(told, [{"type": "http.disconnect"}])

    def test_continue(self) -> None:
        """A client that asks whether to send its body is told to, once."""
        self.collect()
        peer = self.send_raw(
            request("POST / HTTP/1.1", "Host: a", "Content-Length: 2", "Expect: 100-continue"),
        )
        self.assertEqual(bytes(peer.received), b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.send(b"ab")
        self.assertTrue(peer.received.endswith(b"\r\n\r\n2"))

    def test_topics(self) -> None:
        """What is pushd's own does not reach the application."""
        received = self.collect()
        self.assertEqual(self.ask("/topics/a?wait=0").status, 200)
        self.assertEqual(self.ask("/topics/a", "POST", body=b"x").status, 405)
        self.assertEqual(received, [])
