"""The OpenAPI documents, and the page that is made from them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

from openapi_spec_validator import validate
from twisted.trial.unittest import SynchronousTestCase

from pushd import __version__
from pushd.api.operator import operator_page
from pushd.api.playground import Playground
from tests.support.openapi import FILES, read_document

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# Paths of the documents that no module of pushd/api names: the demo, and files.
_ELSEWHERE = {"/test/", "/", "/{file}"}


def find_served(function: str, module: str = "urls") -> set[str]:
    """Return the paths, or their beginnings, with which a function of pushd/api compares.

    Names that it imports, or that stand at the top of the module, are looked up.
    """
    spec = importlib.import_module(f"pushd.api.{module}")
    [body] = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(spec)))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    found: set[str] = set()
    for node in ast.walk(body):
        value: object = None
        if isinstance(node, ast.Constant):
            value = node.value
        elif isinstance(node, ast.Name):
            value = getattr(spec, node.id, None)
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str) and value.startswith("/"):
            found.add(value)
    return found


def load_page() -> ModuleType:
    """Return the module that makes the page, which is in no package."""
    spec = importlib.util.spec_from_file_location("openapi_page", DOCS / "openapi_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class DocumentTests(SynchronousTestCase):
    def test_valid(self) -> None:
        """Both are valid documents of OpenAPI 3.1."""
        for port in FILES:
            value = read_document(port).value
            self.assertEqual(value["openapi"], "3.1.0")
            validate(value)

    def test_version(self) -> None:
        """They have the version of pushd."""
        for port in FILES:
            self.assertEqual(read_document(port).value["info"]["version"], __version__)

    def test_examples(self) -> None:
        """Each example is as its schema says."""
        for port in FILES:
            document = read_document(port)
            examples = list(document.examples())
            self.assertGreater(len(examples), 10)
            for schema, example in examples:
                document.validate(schema, example)

    def test_wrong_example(self) -> None:
        """One that is not is found."""
        schema = {"$ref": "#/components/schemas/Published"}
        with self.assertRaisesRegex(AssertionError, "'subscribers' is a required property"):
            read_document("control").validate(schema, {"id": "a:1"})

    def test_ids(self) -> None:
        """Each operation has a name of its own, and a tag that the document lists."""
        for port in FILES:
            document = read_document(port)
            ids = [operation.id for operation in document.operations]
            self.assertEqual(len(ids), len(set(ids)))
            tags = {tag["name"] for tag in document.value["tags"]}
            used = {
                tag
                for item in document.value["paths"].values()
                for operation in item.values()
                if isinstance(operation, dict)
                for tag in operation["tags"]
            }
            self.assertEqual(used, tags)

    def test_components(self) -> None:
        """Each component is referred to, but for those that only events and messages have."""
        for port, alone in (("public", {"Subscribed"}), ("control", set[str]())):
            document = read_document(port)
            text = FILES[port].read_text()
            for kind in ("schemas", "parameters", "responses"):
                for name in document.value["components"][kind].keys() - alone:
                    self.assertIn(f"#/components/{kind}/{name}'", text)


class RouteTests(SynchronousTestCase):
    """Each URL that pushd/api/urls.py serves is in a document."""

    def test_control(self) -> None:
        """So are those of the control port, and the document has no other."""
        served = find_served("control_site")
        served |= find_served("find", "operator.operator_page") | {f"/{operator_page.FOLDER}"}
        served |= {f"/topics/{{topic}}{suffix}" for suffix in served if suffix == "/presence"}
        paths = set(read_document("control").value["paths"])
        # What goes on after a name is in the document as a parameter.
        shapes = {re.sub(r"(?<=/)\{\w+\}$", "", path) for path in paths}
        self.assertEqual(shapes, served)

    def test_public(self) -> None:
        """So are those of the public port, with those of the demo and for Centrifuge clients."""
        served = find_served("public_site") - {"/plain.html"}
        served |= {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", path) for path in Playground().views}
        served |= {"/connection/websocket", *_ELSEWHERE}
        paths = set(read_document("public").value["paths"])
        shapes = {re.sub(r"^/topics/\{\w+\}$", "/topics/", path) for path in paths}
        self.assertEqual(shapes, served)


class PageTests(SynchronousTestCase):
    """docs/reference/http.md, as the site shows it."""

    def setUp(self) -> None:
        """Make the page."""
        folder = DOCS / "reference"
        source = (folder / "http.md").read_text()
        self.text: str = load_page().replace_blocks(source, folder)

    def test_operations(self) -> None:
        """It has each operation, with its parameters and statuses."""
        for port in FILES:
            for operation in read_document(port).operations:
                head = f"#### `{operation.method} {operation.path}`\n"
                self.assertEqual(
                    self.text.count(head),
                    sum(
                        (one.method, one.path) == (operation.method, operation.path)
                        for other in FILES
                        for one in read_document(other).operations
                    ),
                )
                section = self.text.split(head)[1 if port == "public" else -1]
                section = section.partition("\n### ")[0].partition("\n#### ")[0]
                for parameter in operation.parameters:
                    self.assertIn(f"\n| `{parameter['name']}` | {parameter['in']}", section)
                for status in operation.responses:
                    shown = "other" if status == "default" else status
                    self.assertIn(f"\n| {shown} | ", section)

    def test_schemas(self) -> None:
        """It has each schema."""
        for port in FILES:
            for name in read_document(port).value["components"]["schemas"]:
                self.assertIn(f"\n#### {name}\n", self.text)

    def test_documents(self) -> None:
        """The site knows from which documents the page is made."""
        source = (DOCS / "reference/http.md").read_text()
        found = load_page().find_documents(source)
        self.assertEqual(found, [path.name for path in FILES.values()])

    def test_downloads(self) -> None:
        """It links to the documents."""
        for path in FILES.values():
            self.assertIn(f"]({path.name})", self.text)

    def test_no_block_left(self) -> None:
        """All blocks are replaced."""
        self.assertNotIn("{openapi}", self.text)
