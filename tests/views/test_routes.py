"""Routing: which view serves a path, and which maps are rejected."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pushd.testing import Daemon
from pushd.views.decorators import Handshakes, accept_websocket, require_websocket
from pushd.views.request import Request
from pushd.views.routes import Match, Routes, load_routes
from tests.support.hypothesis_settings import NO_DEADLINE


def plain(request: Request) -> str:
    """Serve HTTP only."""
    return "plain"


@accept_websocket
async def both(request: Request) -> str:
    """Serve both."""
    return "both"


@require_websocket
async def only(request: Request) -> None:
    """Serve WebSockets only."""
    await request.websocket.send("only")


class MatchTests(SynchronousTestCase):
    """Matching a path."""

    def find(self, routes: Routes, path: str) -> Match:
        """Return the match for a path, which must exist."""
        match = routes.match(path)
        assert match is not None, path
        return match

    def test_path(self) -> None:
        """A path without variable parts leads to its view."""
        routes = Routes({"/": plain, "/a/": both, "/a/b": only})
        self.assertEqual(routes.match("/"), Match(plain, {}, Handshakes.REFUSED))
        self.assertEqual(routes.match("/a/"), Match(both, {}, Handshakes.ACCEPTED))
        self.assertEqual(routes.match("/a/b"), Match(only, {}, Handshakes.REQUIRED))

    def test_nowhere(self) -> None:
        """An unknown path has no match, and raises nothing."""
        routes = Routes({"/a/": plain, "/chat/<room>/": both, "/n/<int:n>": both})
        for path in ("/", "", "/b/", "/a/b", "a", "*", "/chat/", "/chat/a/b/", "/A/", "/a/?x"):
            self.assertIsNone(routes.match(path), path)

    def test_named_part(self) -> None:
        """A variable segment matches decoded text without a slash."""
        routes = Routes({"/chat/<room>/": both})
        for room in ("a", "café", "a b", "<room>", "a|b", "..", "%2f", "a\nb", "\x00", "😀", "?#"):
            match = self.find(routes, f"/chat/{room}/")
            self.assertEqual((match.view, dict(match.parameters)), (both, {"room": room}))

    def test_number(self) -> None:
        """An int part gives an int, and matches nothing else."""
        routes = Routes({"/page/<int:number>/": both})
        self.assertEqual(self.find(routes, "/page/12/").parameters, {"number": 12})
        for path in ("/page/x/", "/page/-1/", "/page/1.5/", f"/page/{'9' * 5000}/"):
            self.assertIsNone(routes.match(path), path[:20])

    def test_rest(self) -> None:
        """A path part matches everything that follows, with slashes."""
        routes = Routes({"/files/<path:rest>": plain})
        for rest in ("a/b.txt", "a//b", "a/"):
            self.assertEqual(self.find(routes, f"/files/{rest}").parameters, {"rest": rest})

    def test_several_parts(self) -> None:
        """A path may have several variable parts, and text around them."""
        routes = Routes({"/<team>/room-<int:room>/": both})
        self.assertEqual(self.find(routes, "/red/room-7/").parameters, {"team": "red", "room": 7})

    def test_written_first(self) -> None:
        """A literal path takes precedence over one with a variable part, in any order."""
        for views in ({"/<x>/": both, "/a/": plain}, {"/a/": plain, "/<x>/": both}):
            routes = Routes(views)
            self.assertIs(self.find(routes, "/a/").view, plain)
            self.assertIs(self.find(routes, "/b/").view, both)

    def test_odd_path(self) -> None:
        """A literal path is found, however odd."""
        for path in ("/a//b/", "//a/", "/a|b", "/a b/", "/a%20b/", "/é/", "/a?b"):
            self.assertEqual(
                Routes({path: plain}).match(path), Match(plain, {}, Handshakes.REFUSED)
            )

    def test_path_like_pattern(self) -> None:
        """A path that looks like a pattern is matched like any other."""
        routes = Routes({"/chat/<room>/": both, "/n/<int:n>/": plain})
        self.assertEqual(self.find(routes, "/chat/<room>/").parameters, {"room": "<room>"})
        self.assertIsNone(routes.match("/n/<int:n>/"))

    def test_last_slash(self) -> None:
        """A trailing slash is optional, as WebSocket clients follow no redirect."""
        routes = Routes({"/a/": plain, "/b": both, "/chat/<room>/": both})
        self.assertIs(self.find(routes, "/a").view, plain)
        self.assertIs(self.find(routes, "/b/").view, both)
        self.assertEqual(self.find(routes, "/chat/x").parameters, {"room": "x"})
        routes = Routes({"/a/": plain, "/b": both, "/": plain})
        self.assertIs(self.find(routes, "/a").view, plain)
        self.assertIs(self.find(routes, "/b/").view, both)
        for path in ("", "//", "/a//", "a/", "/c"):
            self.assertIsNone(routes.match(path), path)

    def test_last_slash_counts(self) -> None:
        """If two views differ by the trailing slash, each has its own path."""
        routes = Routes({"/a/": plain, "/a": both, "/<x>/y/": plain, "/<x>/y": both})
        for path, view in (("/a/", plain), ("/a", both), ("/z/y/", plain), ("/z/y", both)):
            self.assertIs(self.find(routes, path).view, view, path)

    def test_more_slashes(self) -> None:
        """Repeated slashes are not merged."""
        routes = Routes({"/a/<x>/": both, "/c/d/": plain})
        for path in ("//a/x/", "///a/x/", "/a//x/", "//c/d/", "/c//d/", "/a/x//", "/c/d//"):
            self.assertIsNone(routes.match(path), path)

    def test_any_path(self) -> None:
        """Any path has a match or none; none raises an exception."""
        routes = Routes({"/a/": plain, "/<x>/<int:n>/": both, "/f/<path:p>": both, "/é/<x>": both})

        @NO_DEADLINE
        @given(st.text(max_size=40) | st.text("/<>a1|é.%", max_size=20).map("/".__add__))
        @example("/f/\n")
        @example("/a/١٢/")
        def ask(path: str) -> None:
            match = routes.match(path)
            self.assertTrue(match is None or match.view in (plain, both))

        ask()


class MapTests(SynchronousTestCase):
    """Maps of views, and which are rejected."""

    def test_mapping(self) -> None:
        """Routes is a mapping from path to view, in the order given."""
        routes = Routes({"/b/": both, "/<x>/": plain, "/a/": only})
        self.assertEqual(dict(routes), {"/b/": both, "/<x>/": plain, "/a/": only})
        self.assertEqual(list(routes), ["/b/", "/<x>/", "/a/"])
        self.assertEqual(len(routes), 3)
        self.assertIs(routes["/a/"], only)
        self.assertNotIn("/c/", routes)

    def test_pairs(self) -> None:
        """Pairs of path and view are accepted as well."""
        self.assertEqual(dict(Routes([("/a/", plain)])), {"/a/": plain})

    def test_empty(self) -> None:
        """An empty map matches nothing."""
        self.assertIsNone(Routes({}).match("/"))

    def test_own_copy(self) -> None:
        """Later changes of the dict have no effect."""
        views = {"/a/": plain}
        routes = Routes(views)
        views.clear()
        self.assertIsNotNone(routes.match("/a/"))

    def test_two_views(self) -> None:
        """Two views on one path are rejected with both paths, whatever the parts are named."""
        pairs = [
            ("/a/", "/a/"),
            ("/chat/<room>/", "/chat/<name>/"),
            ("/chat/<string:room>/", "/chat/<name>/"),
            ("/n/<int:a>/<b>", "/n/<int:x>/<y>"),
        ]
        for first, second in pairs:
            error = self.assertRaises(ValueError, Routes, [(first, plain), (second, both)])
            self.assertEqual(str(error), f"{second} has two views (the other one at {first})")

    def test_different_parts(self) -> None:
        """A number and a text in the same place are two paths."""
        routes = Routes({"/<int:number>/": plain, "/<word>/": both})
        match = routes.match("/7/")
        assert match is not None
        self.assertIs(match.view, plain)

    def test_no_path(self) -> None:
        """A path must be a str that starts with a slash."""
        paths: list[Any] = ["a/", "", " /a/", 7, None, b"/a/"]
        for path in paths:
            error = self.assertRaises(ValueError, Routes, {path: plain})
            self.assertIn(f"{path!r} is not a path", str(error))

    def test_no_syntax(self) -> None:
        """A path that cannot be parsed is rejected with the reason."""
        for path in ("/a/<", "/<x", "/<nope:x>/", "/<x>/<x>/", "/<int(:x>/"):
            error = self.assertRaises(ValueError, Routes, {path: plain})
            self.assertIn("cannot parse a path: ", str(error))

    def test_no_view(self) -> None:
        """A view must be callable."""
        views: list[Any] = [None, "view", 7, [plain]]
        for view in views:
            error = self.assertRaises(TypeError, Routes, {"/a/": view})
            self.assertEqual(str(error), f"the view at /a/ is not callable: {type(view).__name__}")


class AcceptAllTests(SynchronousTestCase):
    """accept_all lets every view serve WebSockets."""

    def test_every_view(self) -> None:
        """Views without decorator serve both; those that require a WebSocket still do."""
        routes = Routes({"/plain/": plain, "/<x>/": plain, "/only/": only}, accept_all=True)
        self.assertEqual(
            [getattr(routes.match(path), "handshakes", None) for path in ("/plain/", "/x/")],
            [Handshakes.ACCEPTED, Handshakes.ACCEPTED],
        )
        self.assertEqual(getattr(routes.match("/only/"), "handshakes", None), Handshakes.REQUIRED)

    def test_not_by_itself(self) -> None:
        """Without accept_all a view needs a decorator."""
        self.assertFalse(Routes({}).accept_all)
        self.assertEqual(Routes({"/": plain}).match("/"), Match(plain, {}, Handshakes.REFUSED))

    def test_view_untouched(self) -> None:
        """The view itself is not changed, as another map may use it without accept_all."""
        Routes({"/": plain}, accept_all=True).match("/")
        self.assertEqual(Routes({"/": plain}).match("/"), Match(plain, {}, Handshakes.REFUSED))

    def test_carried_on(self) -> None:
        """Routes made from such Routes keep accept_all."""
        self.assertTrue(Routes(Routes({"/": plain}, accept_all=True)).accept_all)

    def test_served(self) -> None:
        """In a daemon, a view without decorator serves both."""

        async def echo(request: Request) -> str | None:
            if not request.is_websocket():
                return "page"
            async for message in request.websocket:
                request.websocket.send(message)
            return None

        with Daemon(Routes({"/echo/": echo}, accept_all=True)) as daemon:
            browser = daemon.connect("/echo/")
            browser.send("hello")
            self.assertEqual(browser.messages, ["hello"])
            answer = daemon.get("/echo/")
            assert answer is not None
            self.assertEqual((answer.status, answer.text), (200, "page"))

    def test_served_parts(self) -> None:
        """In a daemon, a view gets the variable parts of the path, decoded."""

        @accept_websocket
        async def seat(request: Request) -> None:
            request.websocket.send(f"{request.path} {dict(request.parameters)}")

        with Daemon({"/chat/<room>/<int:seat>": seat}) as daemon:
            browser = daemon.connect("/chat/caf%C3%A9%20%3C3/7")
            self.assertEqual(browser.messages, ["/chat/café <3/7 {'room': 'café <3', 'seat': 7}"])


class LoadTests(SynchronousTestCase):
    """Loading MODULE:NAME, as an operator writes it."""

    def setUp(self) -> None:
        """Work in a temporary folder, and restore the interpreter's modules afterwards."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.folder = Path(folder.name).resolve()
        self.patch(sys, "path", [entry for entry in sys.path if entry != str(self.folder)])
        self.patch(sys, "dont_write_bytecode", True)
        self.addCleanup(partial(self._forget, set(sys.modules)))
        os.chdir(self.folder)

    def _forget(self, known: set[str]) -> None:
        for name in set(sys.modules) - known:
            del sys.modules[name]

    def write(self, name: str, source: str) -> None:
        """Write a module into the folder."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)

    def refuse(self, text: str, kind: type[Exception] = ValueError) -> str:
        """Return the message of the error."""
        line = str(self.assertRaises(kind, load_routes, text))
        self.assertEqual(len(line.splitlines()), 1, line)
        return line

    def test_loads(self) -> None:
        """A map is loaded from a module in the current folder."""
        self.write(
            "board_one.py",
            "async def chat(request): ...\nviews = {'/chat/<room>/': chat}\n",
        )
        routes = load_routes("board_one:views")
        self.assertEqual(list(routes), ["/chat/<room>/"])
        self.assertEqual(routes["/chat/<room>/"].__name__, "chat")

    def test_package(self) -> None:
        """A module in a package has a dotted name."""
        self.write("board_package/__init__.py", "")
        self.write("board_package/urls.py", "views = {'/a/': print}\n")
        self.assertEqual(list(load_routes("board_package.urls:views")), ["/a/"])

    def test_keeps_accept_all(self) -> None:
        """Routes keep accept_all when they are loaded."""
        self.write(
            "board_all.py",
            "from pushd.views import Routes\nviews = Routes({'/a/': print}, accept_all=True)\n",
        )
        self.assertTrue(load_routes("board_all:views").accept_all)

    def test_folder_once(self) -> None:
        """The current folder is added to sys.path once."""
        self.write("board_two.py", "views = {}\n")
        for _ in range(2):
            load_routes("board_two:views")
        self.assertEqual(sys.path.count(str(self.folder)), 1)
        self.assertEqual(sys.path[0], str(self.folder))

    def test_no_form(self) -> None:
        """A text that is not MODULE:NAME is rejected."""
        for text in ("", ":", "board", "board:", ":views"):
            self.assertEqual(self.refuse(text), "expected MODULE:NAME")

    def test_no_module(self) -> None:
        """The error names a module that does not exist."""
        self.assertEqual(
            self.refuse("board_none:views"),
            "ModuleNotFoundError: No module named 'board_none'",
        )

    def test_no_name(self) -> None:
        """The error names a name that does not exist, and its module."""
        self.write("board_three.py", "")
        self.assertEqual(
            self.refuse("board_three:views"),
            "AttributeError: module 'board_three' has no attribute 'views'",
        )

    def test_error_inside(self) -> None:
        """The error has the file and line in which the module raised."""
        self.write("board_four.py", "views = {}\n1 / 0\n")
        self.assertEqual(
            self.refuse("board_four:views"),
            f"ZeroDivisionError: division by zero ({self.folder / 'board_four.py'}, line 2)",
        )

    def test_error_deep_inside(self) -> None:
        """The line is the innermost one, even in another module."""
        self.write("board_five.py", "import board_six\n")
        self.write("board_six.py", "\n\nraise OSError('no disk')\n")
        self.assertEqual(
            self.refuse("board_five:views"),
            f"OSError: no disk ({self.folder / 'board_six.py'}, line 3)",
        )

    def test_syntax(self) -> None:
        """A syntax error is reported with its line, once."""
        self.write("board_seven.py", "views = {\n")
        self.assertEqual(
            self.refuse("board_seven:views"),
            "SyntaxError: '{' was never closed (board_seven.py, line 1)",
        )

    def test_long_error(self) -> None:
        """A message of several lines is reported on one."""
        self.write("board_eight.py", "raise ValueError('one\\ntwo\\r\\nthree')\n")
        self.assertIn("ValueError: one two three (", self.refuse("board_eight:views"))

    def test_no_map(self) -> None:
        """The error names the type of an object that is no map."""
        self.write("board_nine.py", "views = ['/a/']\n")
        self.assertEqual(
            self.refuse("board_nine:views", TypeError),
            "views must map paths to views, but is of type list",
        )

    def test_bad_map(self) -> None:
        """A map that Routes rejects is rejected here as well."""
        self.write("board_ten.py", "views = {'/<a>/': print, '/<b>/': print}\n")
        self.assertIn("/<b>/ has two views", self.refuse("board_ten:views"))
