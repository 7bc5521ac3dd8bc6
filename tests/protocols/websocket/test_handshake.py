"""The opening handshake, line by line of RFC 6455 §4.2."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import HandshakeRefused
from pushd.protocols.http.headers import RequestHeaders, asks_for_websocket
from pushd.protocols.websocket.handshake import Handshake, opening, read_handshake
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, accept_websocket
from tests.peer import ACCEPT, KEY, TEXT, Peer, frame, handshake, request


class HandshakeTestCase(SynchronousTestCase):
    """A daemon whose only view notes every call."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.asked: list[Request] = []

        @accept_websocket
        async def view(request: Request) -> str | None:
            self.asked.append(request)
            if not request.is_websocket():
                return "a page"
            async for message in request.websocket:
                request.websocket.send(message)
            return None

        self.daemon = Daemon({"/view/": view})

    def shake(self, *lines: str, without: tuple[str, ...] = ()) -> Peer:
        """Send an opening handshake, without some headers and with lines beside the rest."""
        return self.send(handshake("/view/", *lines, without=without))

    def send(self, data: bytes) -> Peer:
        """Send bytes on a new connection."""
        peer = Peer(self.daemon)
        peer.send(data)
        return peer

    def assert_opened(self, peer: Peer) -> None:
        """Check that the handshake was answered with 101, and that the view has its socket."""
        self.assertEqual(peer.head.split("\r\n")[0], "HTTP/1.1 101 Switching Protocols")
        self.assertTrue(self.asked.pop().is_websocket())

    def assert_refused(self, peer: Peer, status: int, *words: str) -> None:
        """Check that the handshake got an answer of one line, and that the view was not asked."""
        self.assertEqual(peer.head.split(" ")[1], str(status))
        self.assertIn("Content-Type: text/plain; charset=utf-8", peer.head)
        line = peer.body.decode()
        self.assertEqual(line.count("\n"), 1)
        self.assertTrue(line.endswith("\n"))
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(self.asked, [])


class RequestLineTests(HandshakeTestCase):
    def test_good(self) -> None:
        """The handshake of the RFC gets the answer of the RFC."""
        peer = self.shake()
        self.assert_opened(peer)
        self.assertIn(f"\r\nSec-WebSocket-Accept: {ACCEPT}", peer.head)
        self.assertRegex(peer.head, "(?i)\r\nUpgrade: websocket")
        self.assertRegex(peer.head, "(?i)\r\nConnection: upgrade")
        self.assertNotIn("Sec-WebSocket-Protocol", peer.head)

    def test_method(self) -> None:
        """A handshake is a GET."""
        for method in ("POST", "PUT", "OPTIONS", "CONNECT", "get"):
            data = handshake("/view/").replace(b"GET", method.encode())
            self.assert_refused(self.send(data), 400, "GET")

    def test_http_version(self) -> None:
        """A handshake needs HTTP/1.1."""
        data = handshake("/view/").replace(b"HTTP/1.1", b"HTTP/1.0")
        peer = self.send(data)
        self.assertNotIn(" 101 ", peer.head)
        self.assert_refused(peer, 400, "HTTP/1.1")

    def test_refusal_keeps_the_connection(self) -> None:
        """After a refusal the client may try again on the same connection."""
        peer = self.shake(without=("Sec-WebSocket-Key",))
        self.assertIsNone(peer.lost)
        peer.received.clear()
        peer.send(handshake("/view/"), frame(TEXT, b"hello"))
        self.assert_opened(peer)
        self.assertEqual(peer.texts, ["hello"])


class HeaderTests(HandshakeTestCase):
    def test_host(self) -> None:
        """A handshake names one host."""
        peer = self.shake(without=("Host",))
        self.assertEqual(peer.head.split(" ")[1], "400")
        peer = self.shake("Host: localhost:8080")
        self.assertEqual(peer.head.split(" ")[1], "400")
        self.assertEqual(self.asked, [])
        for hosts in ([], ["a", "a"], ["a", "b"]):
            with self.assertRaises(HandshakeRefused) as raised:
                self.read(host=hosts)
            self.assertEqual(raised.exception.status, 400)
            self.assertIn("one Host", raised.exception.reason)

    def test_connection(self) -> None:
        """Connection says upgrade, in any case and at any place of its list."""
        for lines in (
            ["Connection: Upgrade"],
            ["Connection: upgrade"],
            ["Connection: UPGRADE"],
            ["Connection: keep-alive, Upgrade"],
            ["Connection: Upgrade,keep-alive"],
            ["Connection: a ,\tupgrade , b"],
            ["Connection: keep-alive", "Connection: Upgrade"],
        ):
            self.assert_opened(self.shake(*lines, without=("Connection",)))

    def test_connection_without(self) -> None:
        """What only looks like it does not."""
        for lines in (
            [],
            ["Connection: "],
            ["Connection: keep-alive"],
            ["Connection: upgraded"],
            ["Connection: not-upgrade"],
            ["Connection: keep-alive upgrade"],
            ['Connection: "upgrade"'],
        ):
            peer = self.shake(*lines, without=("Connection",))
            self.assert_refused(peer, 400, "Connection: Upgrade")

    def test_upgrade(self) -> None:
        """Upgrade says websocket, in any case and at any place of its list."""
        for lines in (
            ["Upgrade: WebSocket"],
            ["Upgrade: h2c, websocket"],
            ["Upgrade: websocket,h2c"],
            ["Upgrade: h2c", "Upgrade: WEBSOCKET"],
        ):
            self.assert_opened(self.shake(*lines, without=("Upgrade",)))

    def test_upgrade_without(self) -> None:
        """Who asks for another protocol, or none, is answered in HTTP."""
        for lines in ([], ["Upgrade: h2c"], ["Upgrade: websockets"], ["Upgrade: web socket"]):
            peer = self.shake(*lines, without=("Upgrade",))
            self.assertEqual(peer.body, b"a page")
            self.assertFalse(self.asked.pop().is_websocket())

    def test_key(self) -> None:
        """The key is 16 bytes in base64, and there is one."""
        for key in (
            None,
            "",
            b64encode(b"x" * 15).decode(),
            b64encode(b"x" * 17).decode(),
            b64encode(b"x" * 18).decode(),
            KEY.replace("==", ""),
            KEY.replace("==", "="),
            f"{KEY}=",
            f"={KEY}",
            f"{KEY}{KEY}",
            KEY.replace("G", "-"),
            KEY.replace("G", "*"),
            KEY.replace("G", " "),
            KEY.replace("G", "é"),
            f"{KEY[:8]}===={KEY[8:]}",
            f"{KEY}, {KEY}",
        ):
            lines = [] if key is None else [f"Sec-WebSocket-Key: {key}"]
            peer = self.shake(*lines, without=("Sec-WebSocket-Key",))
            self.assert_refused(peer, 400, "Sec-WebSocket-Key")
        self.assert_refused(self.shake(f"Sec-WebSocket-Key: {KEY}"), 400, "one Sec-WebSocket-Key")

    def test_other_keys(self) -> None:
        """Any 16 bytes will do, with every letter of the alphabet."""
        for nonce in (bytes(16), b"\xff" * 16, b"\xfb\xef\xbe" * 5 + b"x", bytes(range(16))):
            line = f"Sec-WebSocket-Key: {b64encode(nonce).decode()}"
            self.assert_opened(self.shake(line, without=("Sec-WebSocket-Key",)))

    def test_version(self) -> None:
        """The version is 13; who speaks another, or does not say, is told so."""
        for lines in (
            [],
            ["Sec-WebSocket-Version: 8"],
            ["Sec-WebSocket-Version: 7"],
            ["Sec-WebSocket-Version: 14"],
            ["Sec-WebSocket-Version: 013"],
            ["Sec-WebSocket-Version: thirteen"],
            ["Sec-WebSocket-Version: "],
            ["Sec-WebSocket-Version: 13, 8"],
            ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"],
            ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Version: 13"],
        ):
            peer = self.shake(*lines, without=("Sec-WebSocket-Version",))
            self.assert_refused(peer, 426, "Version must be 13")
            self.assertTrue(peer.head.startswith("HTTP/1.1 426 Upgrade Required\r\n"))
            self.assertRegex(peer.head, "(?i)\r\nSec-WebSocket-Version: 13\r\n")
            self.assertRegex(peer.head, "(?i)\r\nUpgrade: websocket\r\n")

    def test_version_is_told_only_then(self) -> None:
        """Other refusals do not speak of the version."""
        peer = self.shake(without=("Sec-WebSocket-Key",))
        self.assertNotRegex(peer.head, "(?i)Sec-WebSocket-Version")

    def test_body(self) -> None:
        """A handshake has no body: it would be taken for frames."""
        data = handshake("/view/", "Content-Length: 5") + b"hello"
        self.assert_refused(self.send(data), 400, "must not have a body")
        chunked = handshake("/view/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"
        self.assert_refused(self.send(chunked), 400, "must not have a body")
        empty = handshake("/view/", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
        self.assert_refused(self.send(empty), 400, "must not have a body")
        self.assert_refused(self.shake("Transfer-Encoding: identity"), 400, "malformed")

    def test_next_line(self) -> None:
        """The byte that some take for a line's end is refused, though UTF-8 may hold it."""
        data = handshake("/view/").replace(b"\r\n\r\n", b"\r\nX: a\x85X-User: admin\r\n\r\n")
        self.assert_refused(self.send(data), 400, "control byte")

    def test_empty_body(self) -> None:
        """A length of nothing is no body."""
        self.assert_opened(self.shake("Content-Length: 0"))

    def test_origin(self) -> None:
        """A handshake comes from one origin at most."""
        ours = "Origin: http://localhost:8080"
        self.assert_opened(self.shake(ours))
        self.assert_opened(self.shake())
        peer = self.shake(ours, ours)
        self.assertEqual(peer.head.split(" ")[1][0], "4")
        self.assertEqual(self.asked, [])
        with self.assertRaises(HandshakeRefused) as raised:
            self.read(origin=["http://a", "http://a"])
        self.assertEqual(raised.exception.status, 400)
        self.assertIn("one Origin", raised.exception.reason)

    def test_header_within_a_header(self) -> None:
        """No byte inside a header's value makes a header of its own."""
        for byte in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"):
            peer = self.shake(f"X-First: a{byte}X-User: admin")
            if " 400 " in peer.head:
                self.assertEqual(self.asked, [])
            else:
                headers = self.asked.pop().headers
                self.assertEqual(headers["x-first"], f"a{byte}X-User: admin")
                self.assertNotIn("x-user", headers)

    def test_plain_request(self) -> None:
        """What a handshake needs is not asked of a plain request."""
        peer = self.send(request("GET /view/ HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(peer.body, b"a page")

    def read(self, **changed: list[str]) -> Handshake:
        """Read a good handshake in which some headers are others."""
        headers = {
            "host": ["localhost"],
            "upgrade": ["websocket"],
            "connection": ["upgrade"],
            "sec-websocket-key": [KEY],
            "sec-websocket-version": ["13"],
        }
        return read_handshake(b"GET", b"HTTP/1.1", RequestHeaders(headers | changed))


class SubprotocolTests(HandshakeTestCase):
    def test_offers(self) -> None:
        """The view sees the subprotocols in the order of the offer."""
        for lines, offered in (
            ([], ()),
            (["Sec-WebSocket-Protocol: chat"], ("chat",)),
            (["Sec-WebSocket-Protocol: b, a"], ("b", "a")),
            (["Sec-WebSocket-Protocol: b,a ,  c.v1"], ("b", "a", "c.v1")),
            (["Sec-WebSocket-Protocol: b", "Sec-WebSocket-Protocol: a"], ("b", "a")),
            (["Sec-WebSocket-Protocol: chat, Chat"], ("chat", "Chat")),
            (["Sec-WebSocket-Protocol: !#$%&'*+-.^_`|~09azAZ"], ("!#$%&'*+-.^_`|~09azAZ",)),
        ):
            self.shake(*lines)
            self.assertEqual(self.asked.pop().subprotocols, offered)

    def test_bad_offers(self) -> None:
        """An offer is a list of names that differ; anything else is no handshake."""
        for names in (
            "",
            ",",
            "a,",
            ",a",
            "a,,b",
            "a, a",
            "a, b, a",
            "a b",
            "a/b",
            "a;q=1",
            "(a)",
            '"a"',
            "a@b",
            "café",
        ):
            peer = self.shake(f"Sec-WebSocket-Protocol: {names}")
            self.assert_refused(peer, 400, "Sec-WebSocket-Protocol")

    def test_twice_in_two_headers(self) -> None:
        """A name that comes again in another header comes again."""
        peer = self.shake("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a")
        self.assert_refused(peer, 400, "Sec-WebSocket-Protocol")


class ReadTests(SynchronousTestCase):
    def test_values(self) -> None:
        """What is read of a handshake is its key, its subprotocols and its extensions."""
        headers = RequestHeaders(
            {
                "host": ["localhost"],
                "connection": ["upgrade"],
                "sec-websocket-key": [KEY],
                "sec-websocket-version": ["13"],
                "sec-websocket-protocol": ["a, b"],
                "sec-websocket-extensions": ["x; y=1", "z"],
            }
        )
        self.assertEqual(
            read_handshake(b"GET", b"HTTP/1.1", headers),
            Handshake(key=KEY, subprotocols=("a", "b"), extensions="x; y=1,z"),
        )

    def test_asks(self) -> None:
        """Only who names it asks for a WebSocket."""
        self.assertFalse(asks_for_websocket(RequestHeaders()))
        self.assertFalse(asks_for_websocket(RequestHeaders({"upgrade": ["h2c"]})))
        self.assertTrue(asks_for_websocket(RequestHeaders({"upgrade": ["h2c", "WebSocket"]})))

    def test_refusal(self) -> None:
        """A refusal carries its answer, and reads as its reason."""
        refused = HandshakeRefused(400, "no")
        self.assertEqual((refused.status, refused.reason, str(refused)), (400, "no", "no"))


class OpeningTests(SynchronousTestCase):
    """The 101."""

    def test_bytes(self) -> None:
        """It answers the key, and says what was agreed on and nothing of what was not."""
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {ACCEPT}\r\n"
        )
        chosen, extended = "Sec-WebSocket-Protocol: a\r\n", "Sec-WebSocket-Extensions: x; y=1\r\n"
        for subprotocol, extensions, lines in (
            (None, None, ""),
            ("a", None, chosen),
            (None, "x; y=1", extended),
            ("a", "x; y=1", chosen + extended),
        ):
            answer = f"{head}{lines}\r\n".encode()
            self.assertEqual(opening(KEY, subprotocol, extensions), answer)
