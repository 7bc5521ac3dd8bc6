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
        self.ask("/a")
        (scope,) = self.application.scopes
        self.assertEqual(
            (scope["root_path"], scope["path"], scope["raw_path"]), ("/shop", "/shop/a", b"/shop/a")
        )

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
        self.connect("/a?b=c", subprotocols=["d", "e"])
        self.connect(
            "/", origin=None, headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "::1"}
        )
        first, second = self.application.scopes
        self.assertEqual((first["type"], first["scheme"]), ("websocket", "ws"))
        self.assertEqual((first["path"], first["query_string"]), ("/a", b"b=c"))
        self.assertEqual(first["subprotocols"], ["d", "e"])
        self.assertIn("websocket.http.response", first["extensions"])
        self.assertEqual((second["scheme"], second["client"]), ("wss", ("::1", 0)))

    def test_lifespan(self) -> None:
        """The scope of its life has the state that the application fills."""
        scope = lifespan_scope({})
        self.assertEqual((scope["type"], scope["state"]), ("lifespan", {}))
