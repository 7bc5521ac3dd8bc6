"""The URL map: which path leads where, and which maps are refused."""

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

from pushd.testing.daemon import Daemon
from pushd.views.request import Handshakes, Request, accept_websocket, require_websocket
from pushd.views.routes import Match, Routes, load_routes
from tests.unhurried import UNHURRIED


def plain(request: Request) -> str:
    """Speak HTTP."""
    return "plain"


@accept_websocket
async def both(request: Request) -> str:
    """Speak either."""
    return "both"


@require_websocket
async def only(request: Request) -> None:
    """Speak WebSocket."""
    await request.websocket.send("only")


class MatchTests(SynchronousTestCase):
    """From a path to its view."""

    def find(self, routes: Routes, path: str) -> Match:
        """Give what the path leads to; there must be something."""
        match = routes.match(path)
        assert match is not None, path
        return match

    def test_path(self) -> None:
        """A path leads to the view that stands there, with no named parts."""
        routes = Routes({"/": plain, "/a/": both, "/a/b": only})
        self.assertEqual(routes.match("/"), (plain, {}, Handshakes.REFUSED))
        self.assertEqual(routes.match("/a/"), (both, {}, Handshakes.ACCEPTED))
        self.assertEqual(routes.match("/a/b"), (only, {}, Handshakes.REQUIRED))

    def test_nowhere(self) -> None:
        """A path where nothing stands leads nowhere, and no exception out of it either."""
        routes = Routes({"/a/": plain, "/chat/<room>/": both, "/n/<int:n>": both})
        for path in ("/", "", "/b/", "/a/b", "a", "*", "/chat/", "/chat/a/b/", "/A/", "/a/?x"):
            self.assertIsNone(routes.match(path), path)

    def test_named_part(self) -> None:
        """A named segment holds whatever is decoded text without a slash."""
        routes = Routes({"/chat/<room>/": both})
        for room in ("a", "café", "a b", "<room>", "a|b", "..", "%2f", "a\nb", "\x00", "😀", "?#"):
            match = self.find(routes, f"/chat/{room}/")
            self.assertEqual((match.view, dict(match.parameters)), (both, {"room": room}))

    def test_number(self) -> None:
        """A named number arrives as one, and what is none leads nowhere."""
        routes = Routes({"/page/<int:number>/": both})
        self.assertEqual(self.find(routes, "/page/12/").parameters, {"number": 12})
        for path in ("/page/x/", "/page/-1/", "/page/1.5/", f"/page/{'9' * 5000}/"):
            self.assertIsNone(routes.match(path), path[:20])

    def test_rest(self) -> None:
        """A path part takes all the rest, slashes too."""
        routes = Routes({"/files/<path:rest>": plain})
        for rest in ("a/b.txt", "a//b", "a/"):
            self.assertEqual(self.find(routes, f"/files/{rest}").parameters, {"rest": rest})

    def test_several_parts(self) -> None:
        """A path may have several named parts, and text around them."""
        routes = Routes({"/<team>/room-<int:room>/": both})
        self.assertEqual(self.find(routes, "/red/room-7/").parameters, {"team": "red", "room": 7})

    def test_written_first(self) -> None:
        """A path that is written out goes before one with a named part, whichever stands first."""
        for views in ({"/<x>/": both, "/a/": plain}, {"/a/": plain, "/<x>/": both}):
            routes = Routes(views)
            self.assertIs(self.find(routes, "/a/").view, plain)
            self.assertIs(self.find(routes, "/b/").view, both)

    def test_odd_path(self) -> None:
        """A path that is written out is found, however odd."""
        for path in ("/a//b/", "//a/", "/a|b", "/a b/", "/a%20b/", "/é/", "/a?b"):
            self.assertEqual(Routes({path: plain}).match(path), (plain, {}, Handshakes.REFUSED))

    def test_path_like_pattern(self) -> None:
        """A path that looks like the pattern is matched like any other."""
        routes = Routes({"/chat/<room>/": both, "/n/<int:n>/": plain})
        self.assertEqual(self.find(routes, "/chat/<room>/").parameters, {"room": "<room>"})
        self.assertIsNone(routes.match("/n/<int:n>/"))

    def test_last_slash(self) -> None:
        """The slash at the end may be left out or added: a WebSocket can't follow a redirect."""
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
        """Where a view stands at either, the slash tells them apart."""
        routes = Routes({"/a/": plain, "/a": both, "/<x>/y/": plain, "/<x>/y": both})
        for path, view in (("/a/", plain), ("/a", both), ("/z/y/", plain), ("/z/y", both)):
            self.assertIs(self.find(routes, path).view, view, path)

    def test_more_slashes(self) -> None:
        """Slashes at the start, or twice somewhere, are not taken for one."""
        routes = Routes({"/a/<x>/": both, "/c/d/": plain})
        for path in ("//a/x/", "///a/x/", "/a//x/", "//c/d/", "/c//d/", "/a/x//", "/c/d//"):
            self.assertIsNone(routes.match(path), path)

    def test_any_path(self) -> None:
        """Whatever a stranger asks for, the answer is a view or nowhere, never an exception."""
        routes = Routes({"/a/": plain, "/<x>/<int:n>/": both, "/f/<path:p>": both, "/é/<x>": both})

        @UNHURRIED
        @given(st.text(max_size=40) | st.text("/<>a1|é.%", max_size=20).map("/".__add__))
        @example("/f/\n")
        @example("/a/١٢/")
        def ask(path: str) -> None:
            match = routes.match(path)
            self.assertTrue(match is None or match.view in (plain, both))

        ask()


class MapTests(SynchronousTestCase):
    """What a map is, and which maps are none."""

    def test_mapping(self) -> None:
        """It is a map itself: from the path as written to the view, in the order given."""
        routes = Routes({"/b/": both, "/<x>/": plain, "/a/": only})
        self.assertEqual(dict(routes), {"/b/": both, "/<x>/": plain, "/a/": only})
        self.assertEqual(list(routes), ["/b/", "/<x>/", "/a/"])
        self.assertEqual(len(routes), 3)
        self.assertIs(routes["/a/"], only)
        self.assertNotIn("/c/", routes)

    def test_pairs(self) -> None:
        """Pairs of path and view do as well."""
        self.assertEqual(dict(Routes([("/a/", plain)])), {"/a/": plain})

    def test_empty(self) -> None:
        """A map of nothing leads nowhere."""
        self.assertIsNone(Routes({}).match("/"))

    def test_own_copy(self) -> None:
        """What becomes of the dict afterwards is of no matter."""
        views = {"/a/": plain}
        routes = Routes(views)
        views.clear()
        self.assertIsNotNone(routes.match("/a/"))

    def test_two_views(self) -> None:
        """Two views on a path are refused with both paths named, whatever its parts are called."""
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
        """A number and a text at the same place are two paths."""
        routes = Routes({"/<int:number>/": plain, "/<word>/": both})
        match = routes.match("/7/")
        assert match is not None
        self.assertIs(match.view, plain)

    def test_no_path(self) -> None:
        """A path is text that starts with a slash."""
        paths: list[Any] = ["a/", "", " /a/", 7, None, b"/a/"]
        for path in paths:
            error = self.assertRaises(ValueError, Routes, {path: plain})
            self.assertIn(f"{path!r} is not a path", str(error))

    def test_no_syntax(self) -> None:
        """A path that does not parse is refused with the reason."""
        for path in ("/a/<", "/<x", "/<nope:x>/", "/<x>/<x>/", "/<int(:x>/"):
            error = self.assertRaises(ValueError, Routes, {path: plain})
            self.assertIn("cannot parse a path: ", str(error))

    def test_no_view(self) -> None:
        """What can't be called is no view."""
        views: list[Any] = [None, "view", 7, [plain]]
        for view in views:
            error = self.assertRaises(TypeError, Routes, {"/a/": view})
            self.assertEqual(str(error), f"the view at /a/ is not callable: {type(view).__name__}")


class AcceptAllTests(SynchronousTestCase):
    """accept_all makes every view a WebSocket view."""

    def test_every_view(self) -> None:
        """Undecorated views take WebSockets too; those that require one go on to do so."""
        routes = Routes({"/plain/": plain, "/<x>/": plain, "/only/": only}, accept_all=True)
        self.assertEqual(
            [getattr(routes.match(path), "handshakes", None) for path in ("/plain/", "/x/")],
            [Handshakes.ACCEPTED, Handshakes.ACCEPTED],
        )
        self.assertEqual(getattr(routes.match("/only/"), "handshakes", None), Handshakes.REQUIRED)

    def test_not_by_itself(self) -> None:
        """Without it a view has to say so."""
        self.assertFalse(Routes({}).accept_all)
        self.assertEqual(Routes({"/": plain}).match("/"), (plain, {}, Handshakes.REFUSED))

    def test_view_untouched(self) -> None:
        """The view itself stays as it was: another map may want it plain."""
        Routes({"/": plain}, accept_all=True).match("/")
        self.assertEqual(Routes({"/": plain}).match("/"), (plain, {}, Handshakes.REFUSED))

    def test_carried_on(self) -> None:
        """A map made from such a map is one too."""
        self.assertTrue(Routes(Routes({"/": plain}, accept_all=True)).accept_all)

    def test_served(self) -> None:
        """In a daemon, the undecorated view answers HTTP and takes the WebSocket."""

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
        """In a daemon, the view sees the named parts of the path, decoded."""

        @accept_websocket
        async def who(request: Request) -> None:
            request.websocket.send(f"{request.path} {dict(request.parameters)}")

        with Daemon({"/chat/<room>/<int:seat>": who}) as daemon:
            browser = daemon.connect("/chat/caf%C3%A9%20%3C3/7")
            self.assertEqual(browser.messages, ["/chat/café <3/7 {'room': 'café <3', 'seat': 7}"])


class LoadTests(SynchronousTestCase):
    """MODULE:NAME, as an operator writes it."""

    def setUp(self) -> None:
        """Work in a folder of our own, and leave no trace in the interpreter."""
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
        """Give the line that refuses it."""
        line = str(self.assertRaises(kind, load_routes, text))
        self.assertEqual(len(line.splitlines()), 1, line)
        return line

    def test_loads(self) -> None:
        """The map is found in the module, which is found in the current folder."""
        self.write(
            "board_one.py",
            "async def chat(request): ...\nviews = {'/chat/<room>/': chat}\n",
        )
        routes = load_routes("board_one:views")
        self.assertEqual(list(routes), ["/chat/<room>/"])
        self.assertEqual(routes["/chat/<room>/"].__name__, "chat")

    def test_package(self) -> None:
        """A module in a package has its dotted name."""
        self.write("board_package/__init__.py", "")
        self.write("board_package/urls.py", "views = {'/a/': print}\n")
        self.assertEqual(list(load_routes("board_package.urls:views")), ["/a/"])

    def test_keeps_accept_all(self) -> None:
        """A map of Routes keeps what was said with it."""
        self.write(
            "board_all.py",
            "from pushd.views import Routes\nviews = Routes({'/a/': print}, accept_all=True)\n",
        )
        self.assertTrue(load_routes("board_all:views").accept_all)

    def test_folder_once(self) -> None:
        """The current folder is put on the path once."""
        self.write("board_two.py", "views = {}\n")
        for _ in range(2):
            load_routes("board_two:views")
        self.assertEqual(sys.path.count(str(self.folder)), 1)
        self.assertEqual(sys.path[0], str(self.folder))

    def test_no_form(self) -> None:
        """What is not MODULE:NAME is told so."""
        for text in ("", ":", "board", "board:", ":views"):
            self.assertEqual(self.refuse(text), "expected MODULE:NAME")

    def test_no_module(self) -> None:
        """A module that is not there is named."""
        self.assertEqual(
            self.refuse("board_none:views"),
            "ModuleNotFoundError: No module named 'board_none'",
        )

    def test_no_name(self) -> None:
        """A name that the module does not have is named, and the module."""
        self.write("board_three.py", "")
        self.assertEqual(
            self.refuse("board_three:views"),
            "AttributeError: module 'board_three' has no attribute 'views'",
        )

    def test_error_inside(self) -> None:
        """A module that raises is told with the file and the line."""
        self.write("board_four.py", "views = {}\n1 / 0\n")
        self.assertEqual(
            self.refuse("board_four:views"),
            f"ZeroDivisionError: division by zero ({self.folder / 'board_four.py'}, line 2)",
        )

    def test_error_deep_inside(self) -> None:
        """The line is the one where it went wrong, be it in what the module imports."""
        self.write("board_five.py", "import board_six\n")
        self.write("board_six.py", "\n\nraise OSError('no disk')\n")
        self.assertEqual(
            self.refuse("board_five:views"),
            f"OSError: no disk ({self.folder / 'board_six.py'}, line 3)",
        )

    def test_syntax(self) -> None:
        """A module that does not parse is told with the line, once."""
        self.write("board_seven.py", "views = {\n")
        self.assertEqual(
            self.refuse("board_seven:views"),
            "SyntaxError: '{' was never closed (board_seven.py, line 1)",
        )

    def test_long_error(self) -> None:
        """An exception of many lines is told in one."""
        self.write("board_eight.py", "raise ValueError('one\\ntwo\\r\\nthree')\n")
        self.assertIn("ValueError: one two three (", self.refuse("board_eight:views"))

    def test_no_map(self) -> None:
        """A name that is no map is told by its type."""
        self.write("board_nine.py", "views = ['/a/']\n")
        self.assertEqual(
            self.refuse("board_nine:views", TypeError),
            "views must map paths to views, but is of type list",
        )

    def test_bad_map(self) -> None:
        """A map that is refused is refused here as well."""
        self.write("board_ten.py", "views = {'/<a>/': print, '/<b>/': print}\n")
        self.assertIn("/<b>/ has two views", self.refuse("board_ten:views"))
