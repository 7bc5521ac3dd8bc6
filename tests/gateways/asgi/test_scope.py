"""What an ASGI application is told of a connection."""

from __future__ import annotations

from pushd.access.proxies import Proxies
from pushd.gateways.asgi.scope import lifespan_scope
from tests.support.asgi_case import AsgiTestCase, Recorder, body, start
from tests.support.peer import request


class ScopeTests(AsgiTestCase):
    """Scopes."""

    def setUp(self) -> None:
        """Make an application that keeps its scopes."""
        self.application = Recorder(start(), body())

    def test_http(self) -> None:
        """A request: its path decoded and as it came, its query and headers as they came."""
        self.serve(self.application)
        self.ask("/caf%C3%A9/a%2Fb?x=%20", "POST", headers={"X-Two": "a, b"}, body=b"c")
        (scope,) = self.application.scopes
        self.assertEqual(scope["type"], "http")
        self.assertEqual(scope["asgi"], {"version": "3.0", "spec_version": "2.4"})
        self.assertEqual((scope["http_version"], scope["method"]), ("1.1", "POST"))
        self.assertEqual(scope["path"], "/café/a/b")
        self.assertEqual(scope["raw_path"], b"/caf%C3%A9/a%2Fb")
        self.assertEqual((scope["query_string"], scope["root_path"]), (b"x=%20", ""))
        self.assertIn((b"x-two", b"a, b"), scope["headers"])
        self.assertEqual(scope["scheme"], "http")
        self.assertEqual(scope["server"], ("localhost", 8080))
        self.assertEqual(scope["client"], ("127.0.0.1", 50001))

    def test_http_1_0(self) -> None:
        """The version of HTTP is the client's."""
        self.serve(self.application)
        self.send_raw(request("GET / HTTP/1.0"))
        self.assertEqual(self.application.scopes[0]["http_version"], "1.0")
        self.assertEqual(self.application.scopes[0]["server"], ("localhost", 80))

    def test_root_path(self) -> None:
        """The path at which a proxy mounts the application is put in front of the paths."""
        self.serve(self.application, root_path="/shop")
        self.ask("/a%2Fb")
        (scope,) = self.application.scopes
        self.assertEqual((scope["root_path"], scope["path"]), ("/shop", "/shop/a/b"))
        self.assertEqual(scope["raw_path"], b"/shop/a%2Fb")

    def test_headers(self) -> None:
        """Names are in lower case, values without blanks around them, repeated ones in order."""
        self.serve(self.application)
        lines = ("Host: a", "X-One:  b  ", "x-one: c", "X-Two: d\x85e")
        self.send_raw(request("OPTIONS /te%20st HTTP/1.1", *lines))
        (scope,) = self.application.scopes
        headers = [(b"host", b"a"), (b"x-one", b"b"), (b"x-one", b"c"), (b"x-two", b"d\x85e")]
        self.assertEqual(sorted(scope["headers"]), headers)
        self.assertEqual((scope["method"], scope["path"]), ("OPTIONS", "/te st"))

    def test_proxy(self) -> None:
        """Behind a trusted proxy, client and scheme are those that it forwards."""
        self.serve(self.application, proxies=Proxies(["127.0.0.1"]))
        forwarded = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        self.ask(headers=forwarded)
        (scope,) = self.application.scopes
        self.assertEqual((scope["client"], scope["scheme"]), (("192.0.2.7", 0), "https"))

    def test_websocket(self) -> None:
        """A WebSocket has ws or wss as its scheme, and its subprotocols."""
        self.application.events = ({"type": "websocket.accept"},)
        self.serve(self.application, proxies=Proxies(["127.0.0.1"]))
        self.connect("/a%2Fb?b=c", subprotocols=["d", "e"], headers={"X-Name": "caf\xe9"})
        self.connect(
            "/", origin=None, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "::1"}
        )
        first, second = self.application.scopes
        self.assertEqual((first["type"], first["scheme"]), ("websocket", "ws"))
        self.assertEqual((first["path"], first["query_string"]), ("/a/b", b"b=c"))
        self.assertEqual(first["raw_path"], b"/a%2Fb")
        self.assertIn((b"x-name", "caf\xe9".encode()), first["headers"])
        self.assertEqual(first["subprotocols"], ["d", "e"])
        self.assertIn("websocket.http.response", first["extensions"])
        self.assertEqual((second["scheme"], second["client"]), ("wss", ("::1", 0)))

    def test_lifespan(self) -> None:
        """The scope of its life has the state that the application fills."""
        scope = lifespan_scope({})
        self.assertEqual((scope["type"], scope["state"]), ("lifespan", {}))
