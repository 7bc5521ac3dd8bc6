"""The opening handshake, rule by rule of RFC 6455 §4.2."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import HandshakeRefused
from pushd.protocols.http.headers import RequestHeaders, asks_for_websocket
from pushd.protocols.websocket.handshake import Handshake, opening, read_handshake
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import Request
from tests.support.peer import ACCEPT, KEY, TEXT, Peer, frame, handshake, request


class HandshakeTestCase(SynchronousTestCase):
    """A daemon whose only view records its requests."""

    def setUp(self) -> None:
        """Start the daemon."""
        self.requests: list[Request] = []

        @accept_websocket
        async def view(request: Request) -> str | None:
            self.requests.append(request)
            if not request.is_websocket():
                return "a page"
            async for message in request.websocket:
                request.websocket.send(message)
            return None

        self.daemon = Daemon({"/view/": view})

    def shake(self, *lines: str, without: tuple[str, ...] = ()) -> Peer:
        """Send an opening handshake, without some of its headers or with more lines."""
        return self.send(handshake("/view/", *lines, without=without))

    def send(self, data: bytes) -> Peer:
        """Send bytes on a new connection."""
        peer = Peer(self.daemon)
        peer.send(data)
        return peer

    def assert_opened(self, peer: Peer) -> None:
        """Check that the answer is 101, and that the view has been called."""
        self.assertEqual(peer.head.split("\r\n")[0], "HTTP/1.1 101 Switching Protocols")
        self.assertTrue(self.requests.pop().is_websocket())

    def assert_refused(self, peer: Peer, status: int, *words: str) -> None:
        """Check that the answer is an error of one line, and that the view was not called."""
        self.assertEqual(peer.head.split(" ")[1], str(status))
        self.assertIn("Content-Type: text/plain; charset=utf-8", peer.head)
        line = peer.body.decode()
        self.assertEqual(line.count("\n"), 1)
        self.assertTrue(line.endswith("\n"))
        for word in words:
            self.assertIn(word, line)
        self.assertEqual(self.requests, [])


class RequestLineTests(HandshakeTestCase):
    def test_good(self) -> None:
        """The handshake in RFC 6455 gets the answer in RFC 6455."""
        peer = self.shake()
        self.assert_opened(peer)
        self.assertIn(f"\r\nSec-WebSocket-Accept: {ACCEPT}", peer.head)
        self.assertRegex(peer.head, "(?i)\r\nUpgrade: websocket")
        self.assertRegex(peer.head, "(?i)\r\nConnection: upgrade")
        self.assertNotIn("Sec-WebSocket-Protocol", peer.head)

    def test_method(self) -> None:
        """A handshake must be a GET request."""
        for method in ("POST", "PUT", "OPTIONS", "CONNECT", "get"):
            data = handshake("/view/").replace(b"GET", method.encode())
            self.assert_refused(self.send(data), 400, "GET")

    def test_http_version(self) -> None:
        """A handshake requires HTTP/1.1: the view gets one in HTTP/1.0 as a plain request."""
        headers = RequestHeaders({"Host": ["localhost"], "Upgrade": ["websocket"]})
        refused = self.assertRaises(HandshakeRefused, read_handshake, b"GET", b"HTTP/1.0", headers)
        self.assertEqual((refused.status, "HTTP/1.1" in refused.reason), (400, True))
        peer = self.send(handshake("/view/").replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertTrue(peer.head.startswith("HTTP/1.0 200 "), peer.head)
        self.assertFalse(self.requests.pop().is_websocket())

    def test_later_http_version(self) -> None:
        """HTTP/1.2 is served as HTTP/1.1, so a handshake opens a WebSocket."""
        for version in (b"HTTP/1.2", b"HTTP/1.9"):
            self.assert_opened(self.send(handshake("/view/").replace(b"HTTP/1.1", version)))

    def test_refusal_keeps_the_connection(self) -> None:
        """After a refusal a client can try again on the same connection."""
        peer = self.shake(without=("Sec-WebSocket-Key",))
        self.assertIsNone(peer.lost)
        peer.received.clear()
        peer.send(handshake("/view/"), frame(TEXT, b"hello"))
        self.assert_opened(peer)
        self.assertEqual(peer.texts, ["hello"])


class HeaderTests(HandshakeTestCase):
    def test_host(self) -> None:
        """A handshake must have one Host header."""
        peer = self.shake(without=("Host",))
        self.assertEqual(peer.head.split(" ")[1], "400")
        peer = self.shake("Host: localhost:8080")
        self.assertEqual(peer.head.split(" ")[1], "400")
        self.assertEqual(self.requests, [])
        for hosts in ([], ["a", "a"], ["a", "b"]):
            with self.assertRaises(HandshakeRefused) as raised:
                self.read(host=hosts)
            self.assertEqual(raised.exception.status, 400)
            self.assertIn("one Host", raised.exception.reason)

    def test_connection(self) -> None:
        """Connection must list upgrade, in any case and at any place."""
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
        """A handshake without upgrade in Connection is refused."""
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
        """Upgrade must list websocket, in any case and at any place."""
        for lines in (
            ["Upgrade: WebSocket"],
            ["Upgrade: h2c, websocket"],
            ["Upgrade: websocket,h2c"],
            ["Upgrade: h2c", "Upgrade: WEBSOCKET"],
        ):
            self.assert_opened(self.shake(*lines, without=("Upgrade",)))

    def test_upgrade_without(self) -> None:
        """A request for another protocol, or none, is answered over HTTP."""
        for lines in ([], ["Upgrade: h2c"], ["Upgrade: websockets"], ["Upgrade: web socket"]):
            peer = self.shake(*lines, without=("Upgrade",))
            self.assertEqual(peer.body, b"a page")
            self.assertFalse(self.requests.pop().is_websocket())

    def test_key(self) -> None:
        """The key must be 16 bytes in base64, and there must be one."""
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
        """Any 16 bytes are accepted, with every letter of base64."""
        for nonce in (bytes(16), b"\xff" * 16, b"\xfb\xef\xbe" * 5 + b"x", bytes(range(16))):
            line = f"Sec-WebSocket-Key: {b64encode(nonce).decode()}"
            self.assert_opened(self.shake(line, without=("Sec-WebSocket-Key",)))

    def test_version(self) -> None:
        """The version must be 13; the answer to others, and to none, says so."""
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
        """Other refusals do not contain the version."""
        peer = self.shake(without=("Sec-WebSocket-Key",))
        self.assertNotRegex(peer.head, "(?i)Sec-WebSocket-Version")

    def test_body(self) -> None:
        """A handshake must not have a body, which would be read as frames."""
        data = handshake("/view/", "Content-Length: 5") + b"hello"
        self.assert_refused(self.send(data), 400, "must not have a body")
        chunked = handshake("/view/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"
        self.assert_refused(self.send(chunked), 400, "must not have a body")
        empty = handshake("/view/", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
        self.assert_refused(self.send(empty), 400, "must not have a body")
        self.assert_refused(self.shake("Transfer-Encoding: identity"), 400, "malformed")

    def test_next_line(self) -> None:
        """A header with NEL is refused: some parsers take it for the end of a line."""
        data = handshake("/view/").replace(b"\r\n\r\n", b"\r\nX: a\x85X-User: admin\r\n\r\n")
        self.assert_refused(self.send(data), 400, "control byte")

    def test_empty_body(self) -> None:
        """Content-Length: 0 is allowed."""
        self.assert_opened(self.shake("Content-Length: 0"))

    def test_origin(self) -> None:
        """A handshake must have at most one Origin header."""
        ours = "Origin: http://localhost:8080"
        self.assert_opened(self.shake(ours))
        self.assert_opened(self.shake())
        peer = self.shake(ours, ours)
        self.assertEqual(peer.head.split(" ")[1][0], "4")
        self.assertEqual(self.requests, [])
        with self.assertRaises(HandshakeRefused) as raised:
            self.read(origin=["http://a", "http://a"])
        self.assertEqual(raised.exception.status, 400)
        self.assertIn("one Origin", raised.exception.reason)

    def test_header_within_a_header(self) -> None:
        """No byte in the value of a header starts another header."""
        for byte in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"):
            peer = self.shake(f"X-First: a{byte}X-User: admin")
            if " 400 " in peer.head:
                self.assertEqual(self.requests, [])
            else:
                headers = self.requests.pop().headers
                self.assertEqual(headers["x-first"], f"a{byte}X-User: admin")
                self.assertNotIn("x-user", headers)

    def test_plain_request(self) -> None:
        """A plain request need not have the headers of a handshake."""
        peer = self.send(request("GET /view/ HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(peer.body, b"a page")

    def read(self, **changed: list[str]) -> Handshake:
        """Read a valid handshake with some headers replaced."""
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
        """The view sees the subprotocols in the order in which they were offered."""
        for lines, offered in (
            ([], ()),
            (["Sec-WebSocket-Protocol: chat"], ("chat",)),
            (["Sec-WebSocket-Protocol: b, a"], ("b", "a")),
            (["Sec-WebSocket-Protocol: b,a ,  c.v1"], ("b", "a", "c.v1")),
            (["Sec-WebSocket-Protocol: b", "Sec-WebSocket-Protocol: a"], ("b", "a")),
            (["Sec-WebSocket-Protocol: chat, , b"], ("chat", "b")),
            (["Sec-WebSocket-Protocol: ,a,, b ,\t,"], ("a", "b")),
            (["Sec-WebSocket-Protocol:", "Sec-WebSocket-Protocol: a,"], ("a",)),
            (["Sec-WebSocket-Protocol: ,"], ()),
            (["Sec-WebSocket-Protocol:"], ()),
            (["Sec-WebSocket-Protocol: chat, Chat"], ("chat", "Chat")),
            (["Sec-WebSocket-Protocol: !#$%&'*+-.^_`|~09azAZ"], ("!#$%&'*+-.^_`|~09azAZ",)),
        ):
            self.shake(*lines)
            self.assertEqual(self.requests.pop().subprotocols, offered)

    def test_empty_elements_elsewhere(self) -> None:
        """Empty elements count in no other list of a handshake either."""
        for replaced, by in (
            (b"Upgrade: websocket", b"Upgrade: , websocket,"),
            (b"Connection: Upgrade", b"Connection: keep-alive, ,Upgrade"),
            (b"Connection: Upgrade", b"Connection: ,close,, Upgrade"),
        ):
            self.assert_opened(self.send(handshake("/view/").replace(replaced, by)))
        for offer, agreed in (
            (",,permessage-deflate,, x,", True),
            (",", False),
            ("", False),
        ):
            peer = self.shake(f"Sec-WebSocket-Extensions: {offer}")
            self.assert_opened(peer)
            self.assertEqual("Sec-WebSocket-Extensions" in peer.head, agreed, offer)

    def test_bad_offers(self) -> None:
        """Subprotocols that are not a list of different names are refused."""
        for names in (
            "a, a",
            "a,, a",
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
        """A name that is repeated in another header is refused."""
        peer = self.shake("Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: a")
        self.assert_refused(peer, 400, "Sec-WebSocket-Protocol")


class ReadTests(SynchronousTestCase):
    def test_values(self) -> None:
        """A handshake has a key, subprotocols and extensions."""
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
        """A request asks for a WebSocket if Upgrade lists it."""
        self.assertFalse(asks_for_websocket(RequestHeaders()))
        self.assertFalse(asks_for_websocket(RequestHeaders({"upgrade": ["h2c"]})))
        self.assertTrue(asks_for_websocket(RequestHeaders({"upgrade": ["h2c", "WebSocket"]})))

    def test_refusal(self) -> None:
        """A refusal has a status and a reason, which is its text."""
        refused = HandshakeRefused(400, "no")
        self.assertEqual((refused.status, refused.reason, str(refused)), (400, "no", "no"))


class OpeningTests(SynchronousTestCase):
    """The bytes of the 101."""

    def test_bytes(self) -> None:
        """The 101 answers the key, and has what was negotiated only."""
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
