"""One HTTP request: its target, its client behind a proxy, and how it is shown."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource
from twisted.web.test.requesthelper import DummyChannel

from pushd.access.proxies import Proxies
from pushd.protocols.http.request import ChannelRequest, peer_name
from pushd.testing import Daemon
from pushd.views.request import Request
from tests.support.channel_case import ChannelTestCase
from tests.support.peer import Peer, handshake, request, said


class UsingResource(Resource):
    """A resource that uses what twisted.web offers to resources."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """Answer with all of it."""
        request.setComponent(IResource, self)
        itself = request.getComponent(IResource) is self
        known = request.prepath, request.postpath, request.getCookie(b"a"), request.getHost().port
        return repr((*known, itself)).encode()


class TargetTests(SynchronousTestCase):
    """The target of a request."""

    def setUp(self) -> None:
        """Start a daemon with a view that answers with its path, host and query."""

        async def echo(request: Request) -> str:
            return f"{request.path} of {request.host}, {dict(request.query)}"

        async def resource(request: Request) -> Resource:
            return UsingResource()

        self.daemon = Daemon({"/echo/": echo, "/": echo, "/resource/<path:rest>": resource})
        self.addCleanup(self.daemon.stop)

    def ask(self, target: str, *lines: str) -> str:
        """Send a GET whose Host is ``other``; return the body of the answer."""
        head = request(f"GET {target} HTTP/1.1", "Host: other", *lines)
        peer = Peer(self.daemon)
        peer.send(head)
        return peer.received.partition(b"\r\n\r\n")[2].decode()

    def test_origin_form(self) -> None:
        """A target may be a path and a query."""
        self.assertEqual(self.ask("/echo/?a=1&b="), "/echo/ of other, {'a': '1', 'b': ''}")

    def test_absolute_form(self) -> None:
        """A target may be a URL, whose host replaces the Host (RFC 9112 §3.2.2)."""
        self.assertEqual(self.ask("http://here:80/echo/?a=1"), "/echo/ of here:80, {'a': '1'}")
        self.assertEqual(self.ask("HTTPS://here"), "/ of here, {}")
        self.assertEqual(self.ask("http://here?a=1"), "/ of here, {'a': '1'}")

    def test_absolute_form_without_a_host(self) -> None:
        """A URL with an invalid host is refused, and so is any URL without one valid Host."""
        for target, *hosts in (
            ("http://a@b/echo/", "Host: other"),
            ("http:///echo/", "Host: other"),
            ("http://here/echo/",),
            ("http://here/echo/", "Host: other", "Host: here"),
            ("http://here/echo/", "Host: a b"),
        ):
            peer = Peer(self.daemon)
            peer.send(request(f"GET {target} HTTP/1.1", *hosts))
            self.assertIn("400 Bad Request", peer.head, (target, hosts))

    def test_body_of_an_absolute_form(self) -> None:
        """The limit of a body and the form of its refusal are the same for a URL as target."""
        for target in ("/publish", "/publish?", "http://127.0.0.1:8081/publish"):
            for size, status in ((3 << 20, "400"), (1 << 30, "413")):
                peer = Peer(self.daemon, control=True)
                length = f"Content-Length: {size}"
                peer.send(request(f"POST {target} HTTP/1.1", "Host: 127.0.0.1:8081", length))
                if status == "400":
                    peer.send(b" " * size)
                self.assertIn(f"HTTP/1.1 {status} ", peer.head, target)
                self.assertIn("application/json", peer.head, target)

    def test_for_resources(self) -> None:
        """A twisted.web resource finds what it expects of a request."""
        answer = self.ask("/resource/a%20b/c", "Cookie: a=1")
        self.assertEqual(answer, "([], [b'resource', b'a b', b'c'], b'1', 8080, True)")


class NameTests(SynchronousTestCase):
    """Addresses in the log."""

    def test_names(self) -> None:
        """An address is written as in a URL; that of a Unix socket is ``unix``."""
        self.assertEqual(peer_name(IPv4Address("TCP", "10.1.2.3", 80)), "10.1.2.3:80")
        self.assertEqual(peer_name(IPv6Address("TCP", "::1", 80)), "[::1]:80")
        self.assertEqual(peer_name(UNIXAddress("/run/pushd.sock")), "unix")


class ProxyTests(ChannelTestCase):
    """Requests that a trusted proxy forwards."""

    def settings(self) -> dict[str, Any]:
        """Trust a proxy on this machine, and allow one request at a time for each client."""
        return {"proxies": Proxies(["127.0.0.1"]), "max_per_address": 1}

    def ask(self, path: str, *lines: str) -> Peer:
        """Send a GET as the proxy does."""
        return self.send(request(f"GET {path} HTTP/1.1", "Host: localhost:8080", *lines))

    def test_client(self) -> None:
        """The view and the log get the client's address and scheme from the proxy."""
        with capturedLogs() as events:
            self.ask("/hello/", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https")
        self.assertEqual(self.requests[0].peer, "192.0.2.7")
        self.assertEqual(self.requests[0].scheme, "https")
        self.assertEqual(said(events), ["192.0.2.7 GET /hello/ 200 5 after 0.000 s"])

    def test_proxy_itself(self) -> None:
        """A request without forwarding headers is from the proxy itself."""
        self.ask("/hello/")
        self.assertEqual(self.requests[0].peer, "127.0.0.1:50001")
        self.assertEqual(self.requests[0].scheme, "http")

    def test_slots(self) -> None:
        """Each client has its own slots, over any connections of the proxy."""
        line = "X-Forwarded-For: 192.0.2.7"
        first = self.ask("/slow/", line)
        self.assertIn(" 503 ", self.ask("/hello/", line).head)
        self.assertIn(" 200 ", self.ask("/hello/", "X-Forwarded-For: 192.0.2.8").head)
        self.answers[0].callback("done")
        first.settle()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)
        second = self.ask("/slow/", line)
        second.vanish()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        self.assertIn('pushd_refused_total{reason="busy"} 1.0', answer.text)

    def test_slots_of_websockets(self) -> None:
        """A WebSocket keeps its client's slot until its end."""
        line = "X-Forwarded-For: 192.0.2.7"
        first = self.send(handshake("/hello/", line))
        self.assertIn(" 101 ", first.head)
        self.assertIn(" 503 ", self.ask("/hello/", line).head)
        first.vanish()
        self.assertIn(" 200 ", self.ask("/hello/", line).head)


class ReprTests(SynchronousTestCase):
    """A request as text, as it may be in an error."""

    def test_shown(self) -> None:
        """The text has the path, but not the query, which may hold a token."""
        shown: list[str] = []

        class Shown(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                shown.append(repr(request))
                return b""

        async def view(request: Request) -> Resource:
            return Shown()

        with Daemon({"/a/<b>": view}) as daemon:
            daemon.get("/a/b?token=secret")
        self.assertEqual(shown, ["<ChannelRequest /a/b>"])
        channel: Any = DummyChannel()
        channel.client = channel.getPeer()
        self.assertEqual(repr(ChannelRequest(channel)), "<ChannelRequest not read yet>")
