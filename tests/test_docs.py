"""The documents: every block of Python, every name in a table, every link."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import re
import subprocess
import sys
import threading
import unittest
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import wraps
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, NamedTuple

from django import urls
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.core.handlers.wsgi import WSGIHandler
from django.db.models.signals import post_save
from django.test import override_settings
from django.utils.module_loading import import_string
from twisted.trial.unittest import SynchronousTestCase

from pushd import errors
from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.access.tokens import read_token_keys
from pushd.client import Client as Publisher
from pushd.client import publish
from pushd.django.asgi import WebSocketASGIHandler
from pushd.django.async_websocket import AsyncWebSocket
from pushd.django.views import WebSocket as DjangoWebSocket
from pushd.protocols.http.policy import DEFAULT_CSP
from pushd.protocols.websocket.socket import WebSocket
from pushd.testing import Answer, Browser, Daemon
from pushd.views.request import Request
from pushd.views.threads import BlockingWebSocket
from tests.support import django_site
from tests.support.centrifuge_client import PATH, Client
from tests.support.django_site import prepare
from tests.support.fake_network import FakeNetwork
from tests.support.fences import find_fences
from tests.support.keyring import secret_keys, token
from tests.support.loopback import Loopback

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("web/*.md"),
    # Somebody may have run "npm install" there.
    *(path for path in ROOT.glob("examples/**/*.md") if "node_modules" not in path.parts),
]

# Documents all of whose blocks are run by tests/live/test_tutorials.py.
TUTORIALS = {"docs/tutorial-django.md", "docs/tutorial-fastapi.md"}

# The languages of fenced blocks. Add others here, so that no block of Python goes unnoticed.
# "py" is Python for another server, which is compiled only.
LANGUAGES = {"py", "python", "sh", "html", "js", "ts", "tsx", "ini", "nginx", "text", "toml"}
LANGUAGES |= {"{eval-rst}", "{include}", "{openapi}", "{toctree}"}  # Directives of the site.


class Block(NamedTuple):
    """A block of Python in a document."""

    #: The document and the heading above, with a number from the second block on.
    name: str
    source: str

    @property
    def code(self) -> CodeType:
        """The compiled block; in tracebacks its name takes the place of the file."""
        return compile(self.source, self.name, "exec")


def find_blocks(document: str, text: str) -> dict[str, Block]:
    """Return the blocks of Python in a document by their names."""
    blocks: dict[str, Block] = {}
    for heading, language, body in find_fences(text):
        if language == "python":
            name, number = f"{document}: {heading}", 2
            while name in blocks:
                name, number = f"{document}: {heading} {number}", number + 1
            blocks[name] = Block(name, body)
    return blocks


def find_codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code objects of a block and of all functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from find_codes(constant)


def find_idle(block: Block, use: Callable[[dict[str, Any]], object]) -> list[str]:
    """Run a block, use what it defines, and return the functions that were not called."""
    code = block.code
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        called.add(frame.f_code)

    names: dict[str, Any] = {"__name__": "document"}
    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        exec(code, names)
        use(names)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return [one.co_name for one in find_codes(code) if one not in called]


# What makes HTML of a text in a script, in React and in Vue.
AS_HTML = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|dangerouslySetInnerHTML"
    r"|v-html|document\.write(ln)?)\b"
)

# How a tag begins in HTML.
_TAG = re.compile(r"</?[A-Za-z!]")


def find_unescaped(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what code puts into HTML without calling ``escape``: into f-strings and formats."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=parts):
                if any(_is_html(part) for part in parts):
                    values = [one.value for one in parts if isinstance(one, ast.FormattedValue)]
                    yield from (one for one in values if not _is_escaped(one))
            case ast.BinOp(left=left, op=ast.Mod()) if _is_html(left):
                yield node
            case ast.Call(func=ast.Attribute(value=left, attr="format")) if _is_html(left):
                yield node


def _is_html(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _TAG.search(node.value) is not None
    )


def _is_escaped(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "escape"
    )


def find_table_names(text: str, heading: str) -> set[str]:
    """Return the names in the first columns of the tables under a heading."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    return {
        name
        for row, below in pairwise([*rows, ""])
        if set(below) != {"-"}  # That would be the line below a head.
        for name in re.findall(r"`(\w+)", row)
    }


def find_modules(text: str) -> set[str]:
    """Return the modules in the picture of the rooms, as ``room/module``."""
    modules: set[str] = set()
    room = folder = ""
    for line in text.splitlines():
        if head := re.match(r"[┌├]─ \d (\w+)/ ", line):
            room = head[1]
        elif names := re.match(r"│( +)(\w+/)?([ \w]*)│", line):
            # A line that is indented further continues the folder of the line above.
            if names[2] or len(names[1]) < 8:
                folder = names[2] or ""
            modules |= {f"{room}/{folder}{name}" for name in names[3].split()}
    return modules


def find_anchors(text: str) -> set[str]:
    """Return the anchors that a document's headings have, on GitHub and on the site."""
    anchors: set[str] = set()
    in_fence = False
    for line in text.splitlines():
        in_fence ^= line.startswith("```")
        if in_fence or not line.startswith("#"):
            continue
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
        anchor = base = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = 0
        while anchor in anchors:
            anchor = f"{base}-{(number := number + 1)}"
        anchors.add(anchor)
    return anchors


def find_paths(text: str) -> set[str]:
    """Return the files, modules and folders that a text names in code."""
    return set(re.findall(r"`([\w.-]+(?:/[\w.-]*)+|\w+\.py)`", text))


def read(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text()


BLOCKS = {
    name: block
    for path in DOCUMENTS
    if str(path.relative_to(ROOT)) not in TUTORIALS
    for name, block in find_blocks(str(path.relative_to(ROOT)), path.read_text()).items()
}
# Blocks that have a test here.
TESTED: set[str] = set()
# Blocks that are pytest tests, and the files that they are put into.
PYTEST_FILES = {
    "test_demo.py": "docs/testing.md: Testing views",
    "test_news.py": "docs/testing.md: Publishing, and the control port",
    "test_asyncio_news.py": "docs/asyncio.md: Testing",
    "test_shop.py": "docs/asgi.md: Testing",
    "test_chat.py": "docs/testing.md: A chat with two browsers",
}

_FRAMEWORK = "docs/asgi.md: ASGI: keep your application, and its consumers"
TESTED.add(_FRAMEWORK)

_REFERENCE = "docs/reference/python.md: "

Names = dict[str, Any]


def runs(name: str) -> Callable[[Callable[[Any, Names], None]], Callable[[Any], None]]:
    """Return a test that gets what a block defines, and must call all of its functions."""
    TESTED.add(name)

    def decorate(test: Callable[[Any, Names], None]) -> Callable[[Any], None]:
        @wraps(test)
        def run(case: Any) -> None:
            idle = find_idle(BLOCKS[name], lambda names: test(case, names))
            case.assertEqual(idle, [], f"{name}: not called")

        return run

    return decorate


class DocumentTests(SynchronousTestCase):
    """All blocks, tables and links are checked."""

    def test_blocks(self) -> None:
        """Every block of Python has a test, and every test a block."""
        self.assertEqual(TESTED | set(PYTEST_FILES.values()), set(BLOCKS))

    def test_escaping(self) -> None:
        """HTML that code in documents and examples makes of values has them escaped."""
        sources = {name: block.source for name, block in BLOCKS.items()}
        sources |= {str(path): path.read_text() for path in (ROOT / "examples").rglob("*.py")}
        unescaped = [
            f"{name}: {ast.unparse(part)}"
            for name, source in sources.items()
            for part in find_unescaped(ast.parse(source))
        ]
        self.assertEqual(unescaped, [])
        for source, count in (
            ('f"<p>{name}</p>"', 1),
            ('f"<p>{escape(name)}</p>"', 0),
            ('f"{a} < {b}"', 0),
            ('"<p>%s</p>" % name', 1),
            ('"<p>{}</p>".format(name)', 1),
            ('format_html("<p>{}</p>", name)', 0),
        ):
            self.assertEqual(len(list(find_unescaped(ast.parse(source)))), count, source)

    def test_script_escaping(self) -> None:
        """Scripts in documents, in examples and of the daemon show text as text, not as HTML."""
        sources = {
            f"{path}: {heading}": body
            for path in DOCUMENTS
            for heading, language, body in find_fences(path.read_text())
            if language in {"html", "js", "ts", "tsx"}
        }
        for folder in ("examples", "web"):
            for path in (ROOT / folder).rglob("*"):
                if path.suffix in {".html", ".js", ".ts", ".tsx", ".vue"}:
                    sources[str(path)] = path.read_text()
        self.assertGreater(len(sources), 20)
        for name, source in sources.items():
            self.assertNotRegex(source, AS_HTML, name)
        for source in ("e.innerHTML = x", 'v-html="x"', "document.write(x)"):
            self.assertRegex(source, AS_HTML)

    def test_languages(self) -> None:
        """Every block names its language."""
        for path in DOCUMENTS:
            for heading, language, _ in find_fences(path.read_text()):
                # "{include}" is followed by what it includes.
                self.assertIn(language.partition(" ")[0], LANGUAGES, f"{path}, {heading}")

    def test_other_servers(self) -> None:
        """Python for other servers is Python."""
        compiled = 0
        for path in DOCUMENTS:
            for heading, language, body in find_fences(path.read_text()):
                if language == "py":
                    compile(body, f"{path}, {heading}", "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT)
                    compiled += 1
        self.assertGreater(compiled, 2)

    def test_links(self) -> None:
        """Every link has a target."""
        for path in DOCUMENTS:
            for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", path.read_text()):
                self.assertTrue((path.parent / link).exists(), f"{path}: {link}")

    def test_anchors(self) -> None:
        """Every link into a page leads to one of its headings."""
        found = 0
        for path in DOCUMENTS:
            for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text()):
                target = path.parent / link if link else path
                if target.suffix == ".md":
                    self.assertIn(anchor, find_anchors(target.read_text()), f"{path}: {link}")
                    found += 1
        self.assertGreater(found, 80)

    def test_named(self) -> None:
        """Every document that a line of the log, an error or a comment names exists."""
        named = 0
        for path in (ROOT / "pushd").rglob("*.py"):
            for document in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
                self.assertTrue((ROOT / document).exists(), f"{path}: {document}")
                named += 1
        self.assertGreater(named, 10)

    def test_npm(self) -> None:
        """The hook and the composable in npm.md are those of the examples, which tests compile."""
        blocks = [body for _, _, body in find_fences(read("docs/npm.md"))]
        for framework in ("react", "vue"):
            self.assertIn(read(f"examples/npm/{framework}/src/useTopic.ts"), blocks)
        config = read("examples/npm/react/vite.config.js").partition("\n")[2]
        self.assertIn(f"// vite.config.js\n{config}", blocks)

    def test_request(self) -> None:
        """The table of requests in views.md lists every attribute."""
        attributes = {one.name for one in fields(Request)} | _public(Request)
        self.assertEqual(find_table_names(read("docs/views.md"), "The request"), attributes)

    def test_websocket(self) -> None:
        """views.md and the reference list every method of a WebSocket, for both kinds of view."""
        names = find_table_names(read("docs/views.md"), "The WebSocket")
        self.assertEqual(names, _public(BlockingWebSocket))
        self.assertEqual(names - _public(WebSocket), set())
        listed = re.search(
            r"WebSocket\(\)\n.*\n *:members: ([\w,\s]+)\n```", read("docs/reference/python.md")
        )
        assert listed is not None
        self.assertEqual(set(re.findall(r"\w+", listed[1])), names)

    def test_kit(self) -> None:
        """Every name in testing.md exists."""
        names = find_table_names(read("docs/testing.md"), "Reference")
        self.assertIn("pending_calls", names)
        self.assertIn("stall", names)
        self.assertEqual(names - _public(Daemon) - _public(Browser) - {"clock", "host"}, set())


class OtherServersTests(SynchronousTestCase):
    """The tables in docs/asgi.md of what the tests of other servers assert."""

    def test_own_tests(self) -> None:
        """Each test that a table names as ours exists."""
        section = read("docs/asgi.md").partition("\n## What other servers' tests assert\n")[2]
        rows = re.findall(r"^\|[^|\n]*\|[^|\n]*\|([^|\n]*)\|", section.partition("\n## ")[0], re.M)
        named = 0
        for file, test in _tests_named_in(rows):
            path = ROOT / "tests" / ("" if "/" in file else "gateways/asgi") / file
            source = path.with_name(f"test_{path.name}.py").read_text()
            self.assertIn(f"def test_{test}(self)", source, f"{file}: {test}")
            named += 1
        self.assertGreater(named, 90)


def _tests_named_in(cells: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each test in some cells of a table."""
    for cell in cells:
        file = ""
        for name in re.findall(r"`([^`]+)`", cell):
            place, colon, test = name.rpartition(": ")
            file = place if colon else file
            yield file, test


class RoomsTests(SynchronousTestCase):
    """docs/architecture.md and docs/decisions.md name modules that exist."""

    def test_picture(self) -> None:
        """The picture of the rooms has every module of every room, and no other."""
        drawn = find_modules(read("docs/architecture.md"))
        rooms = {module.partition("/")[0] for module in drawn}
        self.assertEqual(len(rooms), 9)
        package = ROOT / "pushd"
        found = {
            path.relative_to(package).with_suffix("").as_posix()
            for room in rooms
            for path in (package / room).rglob("*.py")
            if path.stem != "__init__"
        }
        self.assertEqual(drawn, found)

    def test_paths(self) -> None:
        """Every path in code is a file, a folder, a module of pushd or a file of the tests."""
        for document in ("docs/architecture.md", "docs/decisions.md"):
            for path in sorted(find_paths(read(document))):
                places = [ROOT / path, ROOT / "pushd" / path, ROOT / "pushd" / f"{path}.py"]
                found = any(place.exists() for place in places)
                found = found or ("/" not in path and any((ROOT / "tests").rglob(path)))
                self.assertTrue(found, f"{document} names {path}, which does not exist")

    def test_faces(self) -> None:
        """The table of faces has every name that a room exports."""
        table = read("docs/architecture.md").partition("\n## Faces\n")[2].partition("\n## ")[0]
        for path in sorted((ROOT / "pushd").glob("*/__init__.py")):
            face = f"pushd.{path.parent.name}"
            exported = getattr(importlib.import_module(face), "__all__", [])
            row = "".join(line for line in table.splitlines() if f"| `{face}` |" in line)
            self.assertEqual({*re.findall(r"`(\w+)`", row)}, {*exported}, face)

    def test_errors(self) -> None:
        """The table of errors has every exception of pushd, and no other."""
        named = find_table_names(read("docs/architecture.md"), "Errors")
        defined = {
            name
            for name, value in vars(errors).items()
            if isinstance(value, type) and value.__module__ == errors.__name__
        }
        self.assertEqual(named, defined - {"PushdError"})


class FinderTests(SynchronousTestCase):
    """The functions above find what is in a document."""

    def test_blocks(self) -> None:
        """A block is named after the heading above it; a comment in it is no heading."""
        text = (
            "# Top\n```python\n# no heading\na = 1\n```\n```sh\nls\n```\n"
            "```python\nb = 2\n```\n## Next\n```python\nc = 3\n```\n"
        )
        self.assertEqual(
            list(find_blocks("x.md", text)), ["x.md: Top", "x.md: Top 2", "x.md: Next"]
        )
        self.assertEqual([language for _, language, _ in find_fences(text)][1], "sh")

    def test_idle(self) -> None:
        """A function that is never called is found, also in a class, a function or a thread."""
        source = (
            "```python\ndef f():\n    def g(): pass\nclass C:\n    async def h(self): pass\n"
            "k = lambda: 1\n```\n"
        )
        [block] = find_blocks("x.md", source).values()
        self.assertEqual(find_idle(block, lambda names: None), ["f", "g", "h", "<lambda>"])

        def use(names: Names) -> None:
            names["f"]()
            thread = threading.Thread(target=names["k"])
            thread.start()
            thread.join()

        self.assertEqual(find_idle(block, use), ["g", "h"])

    def test_modules(self) -> None:
        """Modules belong to the room above them; a folder in a room is part of their name."""
        text = "┌─ 2 a/ ── text ──┐\n│    b c_d      │\n│    e/  f      │\n│         i     │\n"
        text += "├─ 1 g/ ─┤\n│ h │\n"
        self.assertEqual(find_modules(text), {"a/b", "a/c_d", "a/e/f", "a/e/i", "g/h"})

    def test_anchors(self) -> None:
        """An anchor is a heading's text, without marks; that of a second one has a number."""
        text = "# A `b-c` [d](e.md), f\n```sh\n# no heading\n```\n## X\n## X\n## X\n"
        self.assertEqual(find_anchors(text), {"a-b-c-d-f", "x", "x-1", "x-2"})

    def test_paths(self) -> None:
        """A path has a slash or ends in .py, and stands in code."""
        text = "`a/b`, `c/`, `d.py`, e/f, `g`, `h.i`, `/j/k`, `l m/n`"
        self.assertEqual(find_paths(text), {"a/b", "c/", "d.py"})

    def test_table_names(self) -> None:
        """Names come from first columns, not from table heads, other columns or other sections."""
        text = "\n## A\n\n| `x` |\n|---|\n| `a(b)`, `c` | `d` |\n\n## B\n\n| `e` |\n"
        self.assertEqual(find_table_names(text, "A"), {"a", "c"})


class ReadmeTests(SynchronousTestCase):
    @runs("README.md: Write a view")
    def test_hello(self, names: Names) -> None:
        """The README's view says hello three times, a second apart."""
        with Daemon(names["views"]) as daemon:
            self.assertIn("WebSocket", _get(daemon, "/hello/").text)
            browser = daemon.connect("/hello/")
            daemon.advance(1, 1)
            self.assertEqual(browser.messages, ["hello 0", "hello 1", "hello 2"])
            daemon.advance(1)
            self.assertEqual(browser.closing, NORMAL)


class AsyncioTests(SynchronousTestCase):
    """Blocks of docs/asyncio.md."""

    @runs("docs/asyncio.md: asyncio")
    def test_asyncio(self, names: Names) -> None:
        """A view answers questions from a thread, while its task counts the seconds."""
        with Daemon(names["views"], loop="asyncio") as daemon:
            browser = daemon.connect("/news/")
            daemon.advance(1)
            browser.send("hello")
            self.assertEqual(browser.messages, ["0 s", "1 s", "HELLO"])
            browser.close()
            self.assertEqual(daemon.pending_calls, [])


class AsgiTests(SynchronousTestCase):
    """Blocks of docs/asgi.md."""

    def test_framework(self) -> None:
        """A handler of FastAPI publishes; the real FastAPI is in tests/live/asgi."""

        class FakeFastAPI:
            """Leaves handlers as they are, and calls one for each request."""

            def post(self, path: str) -> Callable[[Any], Any]:
                """Register a handler."""
                assert path == "/orders/{number}/ship"

                def register(handler: Any) -> Any:
                    self.handler = handler
                    return handler

                return register

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                """Call the handler."""
                if scope["type"] == "http":
                    await self.handler(7)
                    await send({"type": "http.response.start", "status": 200})
                    await send({"type": "http.response.body"})

        self.patch(sys, "modules", {**sys.modules, "fastapi": SimpleNamespace(FastAPI=FakeFastAPI)})

        def use(names: Names) -> None:
            with Daemon(asgi=names["app"]) as daemon:
                browser = daemon.connect("/topics/orders/7")
                daemon.request("POST", "/orders/7/ship")
                self.assertEqual(browser.messages, ['{"status":"shipped"}'])
                browser.close()

        self.assertEqual(find_idle(BLOCKS[_FRAMEWORK], use), [])

    @runs("docs/asgi.md: Topics from the application")
    def test_extension(self, names: Names) -> None:
        """An application publishes by the extension of its scope."""
        with Daemon(asgi=names["application"]) as daemon:
            browser = daemon.connect("/topics/news")
            answer = daemon.request("GET", "/")
            assert answer is not None
            self.assertEqual(answer.status, 204)
            self.assertEqual(browser.messages, ['{"title":"Hello"}'])
            browser.close()


class ViewsTests(SynchronousTestCase):
    """Blocks of docs/views.md."""

    @runs("docs/views.md: Views")
    def test_news(self, names: Names) -> None:
        """One URL answers HTTP with a page and WebSocket with news."""
        with Daemon(names["views"]) as daemon:
            self.assertIn("<p>This URL", _get(daemon, "/news/").text)
            browser = daemon.connect("/news/")
            self.assertEqual(browser.messages, ["news 0"])
            daemon.advance(0.5, 0.5)
            self.assertEqual(browser.messages, ["news 0", "news 1", "news 2"])
            self.assertIsNone(browser.closing)
            daemon.advance(0.5)
            self.assertEqual(browser.closing, NORMAL)
            self.assertEqual(daemon.pending_calls, [])

    @runs("docs/views.md: What a view may return")
    def test_answers(self, names: Names) -> None:
        """Each kind of return value has its status and type; HEAD has the same without a body."""
        with Daemon(names["views"]) as daemon:
            for path, status, kind, start in (
                ("/html", 200, "text/html; charset=utf-8", "<h1>A str is HTML</h1>"),
                ("/bytes", 200, "application/octet-stream", "bytes are"),
                ("/json", 200, "application/json", '{"paid":true}'),
                ("/away", 302, "application/octet-stream", ""),
                ("/page", 200, "text/html; charset=utf-8", "<!doctype html>"),
                ("/nothing", 204, None, ""),
            ):
                answer = _get(daemon, path)
                self.assertEqual(answer.status, status, path)
                self.assertEqual(answer.headers["Content-Type"], kind, path)
                self.assertTrue(answer.text.startswith(start), path)
                head = daemon.request("HEAD", path)
                assert head is not None
                self.assertEqual((head.status, head.body), (status, b""))
                self.assertEqual(head.headers["Content-Length"], answer.headers["Content-Length"])
            self.assertEqual(_get(daemon, "/away").headers.get_all("Set-Cookie"), ["a=1", "b=2"])

    @runs("docs/views.md: Accepting and refusing")
    def test_prices(self, names: Names) -> None:
        """Clients without permission get an HTTP response, others a WebSocket."""
        with Daemon(names["views"]) as daemon:
            browser = daemon.connect("/prices/")
            assert browser.refused is not None
            self.assertEqual((browser.refused.status, browser.refused.text), (403, "members only"))
            for offered, chosen in (((), None), (("x", "prices.v2"), "prices.v2"), (("x",), None)):
                member = daemon.connect(
                    "/prices/", subprotocols=offered, headers={"Cookie": "member=yes"}
                )
                self.assertEqual((member.subprotocol, member.messages), (chosen, ["12.50"]))
            self.assertEqual(_get(daemon, "/prices/").status, 426)

    @runs("docs/views.md: `async def` or plain `def`")
    def test_shout(self, names: Names) -> None:
        """A blocking view answers in a thread, and frees its thread after a time-out."""
        with Daemon(names["views"], threads=1) as daemon:
            browser = daemon.connect("/shout/")
            browser.send("hello")
            browser.send(b"bytes")
            self.assertEqual(browser.messages, ["HELLO", "BYTES"])
            late = daemon.connect("/shout/")
            assert late.refused is not None
            self.assertEqual(late.refused.status, 503)
            daemon.advance(59)
            self.assertIsNone(browser.closing)
            daemon.advance(1)
            self.assertEqual(browser.closing, Closing(4000, "too quiet"))
            daemon.connect("/shout/").close()
            self.assertEqual(daemon.pending_calls, [])

    @runs("docs/views.md: How a WebSocket ends")
    def test_presence(self, names: Names) -> None:
        """A view that waits for time is ended after its grace, and leaves no timer."""
        with Daemon(names["views"]) as daemon:
            browser, other = daemon.connect("/presence/"), daemon.connect("/presence/")
            daemon.advance(10)
            self.assertEqual(browser.messages, ["1 connected", "2 connected"])
            other.leave()
            daemon.advance(10)
            self.assertEqual(browser.messages, ["1 connected", "2 connected", "1 connected"])
            browser.close()
            daemon.advance(5)
            self.assertEqual(names["connected"], set())
            self.assertEqual(daemon.pending_calls, [])

    @runs("docs/views.md: Routing")
    def test_greet(self, names: Names) -> None:
        """A view without a decorator accepts WebSockets if its route says so."""
        with Daemon(names["views"]) as daemon:
            self.assertEqual(_get(daemon, "/greet/caf%C3%A9/").text, "<p>hello café</p>")
            self.assertEqual(_get(daemon, "/greet/%3Cb%3E/").text, "<p>hello &lt;b&gt;</p>")
            browser = daemon.connect("/greet/ann/")
            self.assertEqual((browser.messages, browser.closing), (["hello ann"], NORMAL))
            self.assertEqual(_get(daemon, "/greet/ann").text, "<p>hello ann</p>")
            self.assertEqual(_get(daemon, "/greet/ann/lee/").status, 404)


class SecurityTests(SynchronousTestCase):
    """Blocks of docs/security.md."""

    @runs("docs/security.md: Content-Security-Policy")
    def test_policy(self, names: Names) -> None:
        """A view's own policy takes the place of the default."""
        with Daemon(names["views"]) as daemon:
            [policy] = _get(daemon, "/map/").headers.get_all("Content-Security-Policy") or []
            self.assertEqual(policy, "default-src 'self'; img-src 'self' https://tiles.example.com")

    def test_default_policy(self) -> None:
        """The document quotes the default."""
        self.assertIn(f"\n    Content-Security-Policy: {DEFAULT_CSP}\n", read("docs/security.md"))


class AuthorizerTests(SynchronousTestCase):
    """Blocks of docs/authorizer.md."""

    @runs("docs/authorizer.md: Authorizer")
    def test_may(self, names: Names) -> None:
        """Users subscribe to their own topic and to those of all, and to no other."""
        with Daemon({}, authorize=names["may"]) as daemon:

            def status(topic: str, cookie: str = "", method: str = "GET") -> int:
                path = f"/topics/{topic}?wait=0" if method == "GET" else f"/topics/{topic}"
                answer = daemon.request(method, path, {"Cookie": cookie})
                assert answer is not None
                return answer.status

            self.assertEqual(status("news"), 401)
            self.assertEqual(status("news", "session=7f3a"), 200)
            self.assertEqual(status("users/ann", "session=7f3a"), 200)
            self.assertEqual(status("users/bob", "session=7f3a"), 403)
            self.assertEqual(status("news", "session=7f3a", "POST"), 403)


class CentrifugeTests(SynchronousTestCase):
    """Blocks of docs/centrifuge.md."""

    @runs("docs/centrifuge.md: Remote procedures")
    def test_call(self, names: Names) -> None:
        """Users call the procedure that there is; others have to log in."""
        settings = {"centrifuge": True, "rpc": names["call"], "token_keys": secret_keys()}
        with Daemon({}, **settings) as daemon:
            ann, other = (Client(daemon.connect(PATH)) for _ in range(2))
            ann.connect(token=token("ann"))
            other.connect()
            answer = ann.ask("rpc", method="double", data={"number": 21})
            self.assertEqual(answer, {"data": {"doubled": 42}})
            self.assertEqual(ann.error("rpc", method="halve"), 404)
            self.assertEqual(other.error("rpc", method="double"), 103)

    @runs("docs/from-centrifugo.md: Before and after")
    def test_from_centrifugo(self, names: Names) -> None:
        """PyPI's cent publishes at the control port."""
        with Daemon({}, centrifuge=True) as daemon:
            browser = daemon.connect("/topics/news")

            async def run() -> None:
                async with asyncio.timeout(60), Loopback(daemon) as loopback:
                    await asyncio.to_thread(names["tell"], loopback.control)

            asyncio.run(run())
            self.assertEqual(browser.messages, ['{"text":"hello"}'])
            browser.close()


class TokensTests(SynchronousTestCase):
    """Blocks of docs/tokens.md."""

    @runs("docs/tokens.md: Claims")
    def test_make(self, names: Names) -> None:
        """The token permits what it lists, and nothing else."""
        with TemporaryDirectory() as folder:
            key = Path(folder, "key")
            key.write_bytes(b"0123456789abcdef" * 4 + b"\n")
            given = names["make_token"](key, "ann")
            keys = read_token_keys([str(key)])
        identity = keys.verify(given, 0)
        self.assertEqual((identity.subject, identity.subscribe), ("ann", ("users/ann",)))

    @runs("docs/tokens.md: In a view")
    def test_inbox(self, names: Names) -> None:
        """A browser receives what is published to its own topic; others are refused."""
        with Daemon(names["views"], token_keys=secret_keys()) as daemon:
            ann, bob = (daemon.connect(f"/inbox/?token={token(name)}") for name in ("ann", "bob"))
            ann.send("hello")
            self.assertEqual((ann.messages, bob.messages), (["hello"], []))
            refused = daemon.connect("/inbox/").refused
            assert refused is not None
            self.assertEqual(refused.status, 401)


class CommandTests(SynchronousTestCase):
    """Blocks of docs/command.md."""

    def setUp(self) -> None:
        """Let the block connect to a daemon in memory."""
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)
        defaults = dict(Publisher.__init__.__kwdefaults__ or {})
        defaults["connect"] = FakeNetwork(self.daemon).connect
        self.patch(Publisher.__init__, "__kwdefaults__", defaults)

    @runs("docs/command.md: From Python")
    def test_publish(self, names: Names) -> None:
        """The one line publishes."""
        said = self.daemon.request("GET", "/topics/news", control=True)
        assert said is not None
        self.assertEqual(json.loads(said.body)["history"], 1)
        self.assertIs(names["publish"], publish)


class ClientTests(SynchronousTestCase):
    """Blocks of docs/clients.md."""

    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({})
        self.addCleanup(self.daemon.stop)

    @runs("docs/clients.md: Anywhere")
    def test_anywhere(self, names: Names) -> None:
        """A function publishes."""
        names["order_paid"](66)
        self.assertEqual(self.daemon.last_id("orders/66")[-2:], ":1")

    @runs("docs/clients.md: A page that misses nothing")
    def test_page(self, names: Names) -> None:
        """A page has the id that the next publication follows."""
        said = names["order_page"](66, lambda order: f"{order} & more")
        last = self.daemon.last_id("orders/66")
        self.assertEqual(said, f'<p id="order" data-after="{last}">66 &amp; more</p>')

    @runs("docs/from-polling.md: Before and after")
    def test_from_polling(self, names: Names) -> None:
        """A page that subscribes after the id that it was given gets what has changed since."""
        shown = names["read_order"](7)
        names["set_status"](7, "paid")
        path = f"/topics/orders/7?wait=0&format=json&after={shown['after']}"
        [publication] = json.loads(_get(self.daemon, path).text)["publications"]
        self.assertEqual((shown["status"], publication["data"]), ("received", {"status": "paid"}))
        self.assertEqual(names["read_order"](7)["status"], "paid")

    @runs("docs/clients.md: asyncio")
    def test_asyncio(self, names: Names) -> None:
        """An asyncio program publishes, and gets what it has published."""

        async def run() -> Any:
            async with asyncio.timeout(30), Loopback(self.daemon) as loopback:
                return await names["count_orders"](loopback.url, loopback.control)

        self.assertEqual(asyncio.run(run()), [("paid", {"order": 66}), (None, "67")])


class FromDwebsocketTests(SynchronousTestCase):
    """Blocks of docs/from-dwebsocket.md."""

    @runs("docs/from-dwebsocket.md: Coming from dwebsocket")
    def test_as_it_was(self, names: Names) -> None:
        """The body of a dwebsocket view runs unchanged."""
        self._try_numbers(names["views"])

    @runs("docs/from-dwebsocket.md: Coming from dwebsocket 2")
    def test_async(self, names: Names) -> None:
        """The same view as a coroutine behaves the same."""
        self._try_numbers(names["views"])

    @runs("docs/from-dwebsocket.md: Pushing to many")
    def test_broadcast(self, names: Names) -> None:
        """Every client receives what any of them sends; clients that disconnect are forgotten."""
        with Daemon(names["views"]) as daemon:
            ann, bob = daemon.connect("/broadcast/"), daemon.connect("/broadcast/")
            ann.send("hello")
            self.assertEqual([ann.messages, bob.messages], [["hello"], ["hello"]])
            ann.leave()
            bob.send("alone")
            self.assertEqual(bob.messages, ["hello", "alone"])
            bob.close()
            self.assertEqual(names["clients"], set())

    @runs("docs/from-dwebsocket.md: Waiting")
    def test_ten(self, names: Names) -> None:
        """Ten messages come half a second apart."""
        with Daemon(names["views"]) as daemon:
            browser = daemon.connect("/ten/")
            self.assertEqual(browser.messages, [])
            browser.send("go")
            for number in range(10):
                self.assertEqual(browser.messages[number:], [f"service message: {number}"])
                daemon.advance(0.5)
            self.assertEqual(browser.closing, NORMAL)

    def _try_numbers(self, views: Mapping[str, Any]) -> None:
        with Daemon(views, threads=1) as daemon:
            self.assertIn("<!doctype html>", _get(daemon, "/numbers/").text)
            browser = daemon.connect("/numbers/")
            browser.send('["1","2"]')
            browser.send(b"[3]")
            self.assertEqual(browser.messages, [f"service message: {n}" for n in (1, 2, 3)])
            browser.close()
            # The only thread is free again.
            again = daemon.connect("/numbers/")
            again.send("no JSON")
            self.assertEqual(again.closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(json.JSONDecodeError)), 1)


class DjangoTestCase(SynchronousTestCase):
    """Tests of blocks that are parts of a Django site."""

    def setUp(self) -> None:
        """Create tables and a user before a block connects to the signal for saved users."""
        django_site.prepare()

    def serve(self, *views: Any) -> Daemon:
        """Serve Django views under their names."""
        patterns = tuple(urls.path(f"{name}/", view) for name, view in views)
        templates = {"numbers.html": "<p>numbers</p>"}
        loaders = [("django.template.loaders.locmem.Loader", templates)]
        backend = "django.template.backends.django.DjangoTemplates"
        override = override_settings(
            ROOT_URLCONF=patterns, TEMPLATES=[{"BACKEND": backend, "OPTIONS": {"loaders": loaders}}]
        )
        override.enable()
        self.addCleanup(override.disable)
        daemon = Daemon({}, wsgi=WSGIHandler())
        self.addCleanup(daemon.stop)
        return daemon


class DjangoTests(DjangoTestCase):
    """Blocks of docs/django.md."""

    @runs("docs/django.md: Django, and any other WSGI application")
    def test_numbers(self, names: Names) -> None:
        """The view of dwebsocket's example behaves as under dwebsocket."""
        daemon = self.serve(("numbers", names["numbers"]))
        self.assertEqual(_get(daemon, "/numbers/").text, "<p>numbers</p>")
        browser = daemon.connect("/numbers/")
        browser.send('["1","2"]')
        self.assertEqual(browser.messages, ["service message: 1", "service message: 2"])
        browser.close()
        self.assertEqual(browser.closing, NORMAL)

    @runs("docs/django.md: Django, and any other WSGI application 2")
    def test_three_lines(self, names: Names) -> None:
        """A user may read the own topic, and no other; an anonymous client may read none."""
        self.assert_readers(names["may"], {"users/{}": (403, 200), "news": (403, 403)})

    @runs("docs/django.md: Who may read a topic")
    def test_may(self, names: Names) -> None:
        """Everyone reads the news, users their topics, and members their rooms."""
        self.assert_readers(
            names["may"],
            {"news": (200, 200), "users/7": (401, 200), "rooms/a": (401, 403), "x": (401, 403)},
        )

    def assert_readers(self, may: Any, wanted: dict[str, tuple[int, int]]) -> None:
        """Check the statuses that topics have for an anonymous client and for Ann."""
        daemon, ann, key = self.serve_ann(may)
        for topic, statuses in wanted.items():
            path = f"/topics/{topic.format(key)}?wait=0"
            answers = [daemon.get(path, headers) for headers in ({}, ann)]
            self.assertEqual(tuple(one.status for one in answers if one), statuses, topic)

    def serve_ann(self, may: Any) -> tuple[Daemon, dict[str, str], int]:
        """Serve a site with an authorizer; give the headers of Ann's session, and her key."""
        middleware = override_settings(MIDDLEWARE=django_site.MIDDLEWARE, PUSHD_AUTHORIZE=may)
        middleware.enable()
        self.addCleanup(middleware.disable)
        daemon = self.serve(("login", django_site.login))
        cookies = _get(daemon, "/login/").headers.get_all("Set-Cookie") or []
        ann = {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in cookies)}
        return daemon, ann, get_user_model().objects.get(username="ann").pk

    @runs("docs/from-channels.md: Before and after")
    def test_from_channels(self, names: Names) -> None:
        """A user is told of the own orders only."""
        order = SimpleNamespace(pk=66, customer_id=self.assert_own_topic(names["may"], "users/"))
        names["order_paid"](order)
        self.assertEqual(self.told, ['{"order":66,"status":"paid"}'])

    @runs("docs/from-django-eventstream.md: Before and after")
    def test_from_django_eventstream(self, names: Names) -> None:
        """The view publishes to the topic of its user."""
        key = self.assert_own_topic(names["may"], "user-")
        said = names["pay"](SimpleNamespace(user=SimpleNamespace(pk=key)))
        self.assertEqual((said.content, self.told), (b"paid", ['{"status":"paid"}']))

    def assert_own_topic(self, may: Any, prefix: str) -> int:
        """Check that Ann may read the topic with her key only; listen there, and return the key."""
        daemon, ann, key = self.serve_ann(may)
        for topic in (f"{prefix}{key + 1}", f"{prefix}None"):
            for headers in ({}, ann):
                self.assertIsNotNone(daemon.connect(f"/topics/{topic}", headers=headers).refused)
        self.assertIsNotNone(daemon.connect(f"/topics/{prefix}{key}").refused)
        self.told = daemon.connect(f"/topics/{prefix}{key}", headers=ann).messages
        return key

    @runs("docs/django.md: Decorators and middleware")
    def test_members(self, names: Names) -> None:
        """Anonymous clients are redirected to the login; logged-in clients are accepted."""
        daemon = self.serve(
            ("login", django_site.login),
            ("inbox", names["inbox"]),
            ("rooms/<room>", names["Room"].as_view()),
        )
        cookies = _get(daemon, "/login/").headers.get_all("Set-Cookie") or []
        member = {"Cookie": "; ".join(cookie.partition(";")[0] for cookie in cookies)}
        for place, said in (("/inbox/", "hello ann"), ("/rooms/a/", "welcome to a")):
            refused = daemon.connect(place).refused
            assert refused is not None
            self.assertEqual(refused.status, 302)
            self.assertEqual(daemon.connect(place, headers=member).messages, [said])
        answer = daemon.get("/rooms/%3Cb%3E/", member)
        assert answer is not None
        self.assertEqual(answer.text, "&lt;b&gt;")

    @runs("docs/django.md: Publishing")
    def test_publish(self, names: Names) -> None:
        """Saving a model publishes."""
        self.addCleanup(post_save.disconnect, names["tell"], sender="auth.User")
        daemon = self.serve(("login", django_site.login))
        self.assertEqual(_get(daemon, "/login/").status, 200)  # It notes the time of the login.
        last = json.loads(_get(daemon, "/topics/users?wait=0").text)["id"]
        first = last.replace(":1", ":0")
        self.assertRegex(
            _get(daemon, f"/topics/users?wait=0&after={first}").text, r"\b[0-9]+ was saved"
        )

    @runs("docs/django.md: Publishing 2")
    def test_last_id(self, names: Names) -> None:
        """A page has the last id of its topic, and what the database holds."""
        daemon = self.serve(("users", names["users"]))
        said = _get(daemon, "/users/").text
        self.assertIn(f'data-after="{daemon.last_id("users")}">', said)

    @runs("docs/django.md: Async views")
    def test_asgi_application(self, names: Names) -> None:
        """The application serves the WebSockets of the site."""
        self.assertIsInstance(names["application"], WebSocketASGIHandler)

    @runs("docs/django.md: Async views 2")
    def test_async_room(self, names: Names) -> None:
        """Messages are published to the topic that each browser is subscribed to."""
        prepare()
        settings = override_settings(
            ROOT_URLCONF=(urls.path("<name>/", names["room"]),),
            MIDDLEWARE=django_site.MIDDLEWARE,
        )
        with settings, Daemon({}, asgi=WebSocketASGIHandler()) as daemon:
            ann, bob = daemon.connect("/lobby/"), daemon.connect("/lobby/")
            ann.send("hello")
            for browser in (ann, bob):
                self.assertEqual(browser.messages, ['{"from":"","text":"hello"}'])
            bob.send("/count")
            self.assertRegex(str(bob.messages[-1]), r"^\d+ users$")

    @runs("docs/django.md: Without Django")
    def test_application(self, names: Names) -> None:
        """An application without a framework echoes messages."""
        with Daemon({}, wsgi=names["application"]) as daemon:
            self.assertIn("also speaks WebSocket", _get(daemon, "/").text)
            browser = daemon.connect("/")
            browser.send("hello")
            browser.close()
            self.assertEqual((browser.messages, browser.closing), (["hello"], NORMAL))

    def test_names(self) -> None:
        """The tables list every method that a view may call."""
        text = read("docs/django.md")
        self.assertEqual(find_table_names(text, "The WebSocket"), _public(DjangoWebSocket))
        section = text.partition("\n## Async views\n")[2].partition("\n## ")[0]
        for name in _public(AsyncWebSocket):
            self.assertRegex(section, rf"`(await )?{name}\b", name)


class _Enough(Exception):
    """Ends a subscription of a test."""


class ReferenceTests(DjangoTestCase):
    """Blocks of docs/reference/python.md."""

    def test_every_name(self) -> None:
        """Each public name stands in an example, which imports it from its package."""
        imported: set[tuple[str, str]] = set()
        for block in BLOCKS.values():
            for node in ast.walk(ast.parse(block.source)):
                if isinstance(node, ast.ImportFrom) and node.module is not None:
                    imported |= {(node.module, one.name) for one in node.names}
        for name in ("pushd.views", "pushd.schedule", "pushd.testing", "pushd.django"):
            self.assertEqual(_exported(name) - imported, set())
        for name in ("pushd.asgi", "pushd.client", "pushd.aio"):
            self.assertEqual(_exported(name) - imported, set())

    @runs(f"{_REFERENCE}Publish from anywhere: `pushd`")
    def test_anywhere(self, names: Names) -> None:
        """It publishes, and returns the id."""
        with Daemon({}) as daemon:
            said = names["order_paid"](66)
            self.assertEqual((said, said[-2:]), (daemon.last_id("orders/66"), ":1"))

    @runs(f"{_REFERENCE}Views: `pushd.views`")
    def test_views(self, names: Names) -> None:
        """A lobby: who comes in is welcomed, hears what others say, and can be banned."""
        with Daemon(names["views"], token_keys=secret_keys(), web="web") as daemon:
            self.assertEqual(_get(daemon, "/").status, 200)
            self.assertIn("open a WebSocket", _get(daemon, f"/lobby/?token={token('bob')}").text)
            ann = daemon.connect(f"/lobby/?token={token('ann')}")
            said = daemon.request("POST", f"/say/?token={token('bob')}", body=b"hello")
            assert said is not None
            self.assertEqual(json.loads(said.body), {"last": daemon.last_id("lobby")})
            self.assertEqual(ann.messages, ["welcome, ann", "hello"])
            banned = daemon.request("POST", "/ban/", body=b"ann")
            assert banned is not None
            self.assertEqual(json.loads(banned.body), {"ended": 1})
            echo = daemon.connect("/echo/")
            echo.send("a")
            self.assertEqual(echo.messages, ["a"])

    @runs(f"{_REFERENCE}Time: `pushd.schedule`")
    def test_schedule(self, names: Names) -> None:
        """Ten pushes in five seconds."""
        with Daemon({"/": names["countdown"]}) as daemon:
            browser = daemon.connect("/")
            daemon.advance(1)
            self.assertEqual(browser.messages, ["10", "9", "8"])

    @runs(f"{_REFERENCE}Test kit: `pushd.testing`")
    def test_testing(self, names: Names) -> None:
        """The test passes."""
        names["test_echo"]()
        self.assertEqual(len(names["OTHERS"]), 4)

    @runs(f"{_REFERENCE}Django: `pushd.django`")
    def test_django(self, names: Names) -> None:
        """Views of both kinds, and a log-out that ends what the user has subscribed to."""
        self.addCleanup(user_logged_out.disconnect, names["end_subscriptions"])
        self.assertTrue(callable(import_string(names["MIDDLEWARE"][0])))
        daemon = self.serve(("count", names["count"]), ("tell/<text>", names["tell"]))
        said = json.loads(_get(daemon, "/tell/hello/").text)
        self.assertEqual(said, {"last": daemon.last_id("news")})
        browser = daemon.connect("/count/")
        browser.send("a")
        self.assertEqual(browser.messages, ["1: a"])
        browser.close()
        names["end_subscriptions"](None, get_user_model().objects.get(username="ann"))
        daemon.stop()
        settings = override_settings(ROOT_URLCONF=(urls.path("", names["echo"]),))
        with settings, Daemon({}, asgi=WebSocketASGIHandler()) as other:
            browser = other.connect("/")
            browser.send("a")
            self.assertEqual(browser.messages, ["a"])

    @runs(f"{_REFERENCE}ASGI applications: `pushd.asgi`")
    def test_asgi(self, names: Names) -> None:
        """A page publishes, and says the id."""
        with Daemon({}, asgi=names["application"]) as daemon:
            self.assertEqual(_get(daemon, "/a").text, daemon.last_id("hits"))

    @runs(f"{_REFERENCE}Client: `pushd.client`")
    def test_client(self, names: Names) -> None:
        """What is published is shown; a mistake is told."""
        shown = self.follow(lambda url, show: asyncio.to_thread(names["watch"], url, "t", show))
        self.assertEqual(shown, ["load the state anew", "hello"])
        with Daemon({}) as daemon:

            async def run() -> str:
                async with asyncio.timeout(60), Loopback(daemon) as loopback:
                    said: str = await asyncio.to_thread(
                        names["report"], loopback.control, "a b", "x"
                    )
                    return said

            self.assertRegex(asyncio.run(run()), "^refused with 400: ")

    @runs(f"{_REFERENCE}Client for asyncio: `pushd.aio`")
    def test_aio(self, names: Names) -> None:
        """The same with asyncio."""
        shown = self.follow(lambda url, show: names["watch"](url, "t", show))
        self.assertEqual(shown, ["load the state anew", "hello"])

    def follow(self, watch: Callable[[str, Callable[[str], None]], Any]) -> list[str]:
        """Return what is shown until a message has come, which is published once one listens."""
        shown: list[str] = []

        async def run() -> None:
            async with asyncio.timeout(60), Loopback(daemon) as loopback:
                loop = asyncio.get_running_loop()

                def show(text: str) -> None:
                    shown.append(text)
                    if len(shown) == 1:
                        loop.call_soon_threadsafe(daemon.publish, "t", "hello")
                    else:
                        raise _Enough

                await watch(loopback.url, show)

        with Daemon({}) as daemon, self.assertRaises(_Enough):
            asyncio.run(run())
        return shown


def _exported(package: str) -> set[tuple[str, str]]:
    """Return the public names of a package, each with the package."""
    return {(package, name) for name in importlib.import_module(package).__all__}


class TestingTests(SynchronousTestCase):
    """The tests in docs/testing.md pass."""

    @runs("docs/testing.md: Testing views 2")
    def test_demo(self, names: Names) -> None:
        """The demo's page, tested with trial."""
        self._try_case(names["DemoTests"])

    @runs("docs/testing.md: Reference")
    def test_divide(self, names: Names) -> None:
        """A view that raises, tested with trial."""
        self._try_case(names["DivideTests"])

    def _try_case(self, case: type[unittest.TestCase]) -> None:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        self.assertEqual([text for _, text in result.errors + result.failures], [])
        self.assertEqual(result.testsRun, 1)


class PytestTests(SynchronousTestCase):
    """The pytest tests in docs/testing.md, docs/asyncio.md and docs/asgi.md pass."""

    def test_pytest(self) -> None:
        """Each block is a file that pytest runs, with the fixture of the installed pushd."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        place = Path(folder.name)
        (place / "chat.py").write_text(read("examples/chat.py"))
        (place / "news.py").write_text(BLOCKS["docs/asyncio.md: asyncio"].source)
        (place / "shop").mkdir()
        (place / "shop" / "main.py").write_text(BLOCKS[_FRAMEWORK].source)
        for file, name in PYTEST_FILES.items():
            (place / file).write_text(BLOCKS[name].source)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("6 passed", done.stdout)


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def _get(daemon: Daemon, path: str) -> Answer:
    answer = daemon.get(path)
    assert answer is not None
    return answer
