"""A request as the doors have it."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource

from pushd.testing import Daemon
from pushd.views import Request
from tests.peer import Peer, request


class Named(Resource):
    """A twisted.web resource that wants what twisted.web gives to all of them."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        """Say what there is."""
        request.setComponent(IResource, self)
        itself = request.getComponent(IResource) is self
        known = request.prepath, request.postpath, request.getCookie(b"a"), request.getHost().port
        return repr((*known, itself)).encode()


class TargetTests(SynchronousTestCase):
    """What is asked for."""

    def setUp(self) -> None:
        """Have a view that says how it was asked."""

        async def echo(request: Request) -> str:
            return f"{request.path} of {request.host}, {dict(request.query)}"

        async def resource(request: Request) -> Resource:
            return Named()

        self.daemon = Daemon({"/echo/": echo, "/": echo, "/resource/<path:rest>": resource})
        self.addCleanup(self.daemon.stop)

    def ask(self, target: str, *lines: str) -> str:
        """Ask for a target in the name of another host; what is answered to it, as text."""
        head = request(f"GET {target} HTTP/1.1", "Host: other", *lines)
        peer = Peer(self.daemon)
        peer.send(head)
        return peer.received.partition(b"\r\n\r\n")[2].decode()

    def test_origin_form(self) -> None:
        """The path and the query, as browsers ask for them."""
        self.assertEqual(self.ask("/echo/?a=1&b="), "/echo/ of other, {'a': '1', 'b': ''}")

    def test_absolute_form(self) -> None:
        """A whole URL, whose host counts in place of Host (RFC 9112 §3.2.2)."""
        self.assertEqual(self.ask("http://here:80/echo/?a=1"), "/echo/ of here:80, {'a': '1'}")
        self.assertEqual(self.ask("HTTPS://here"), "/ of here, {}")
        self.assertEqual(self.ask("http://here?a=1"), "/ of here, {'a': '1'}")

    def test_absolute_form_without_a_host(self) -> None:
        """A URL whose host can be none is refused, as a Host like that is."""
        head = request("GET http://a@b/echo/ HTTP/1.1", "Host: other")
        peer = Peer(self.daemon)
        peer.send(head)
        self.assertIn("400 Bad Request", peer.head)

    def test_for_resources(self) -> None:
        """What a twisted.web resource may ask a request for, it is given."""
        told = self.ask("/resource/a%20b/c", "Cookie: a=1")
        self.assertEqual(told, "([], [b'resource', b'a b', b'c'], b'1', 8080, True)")
