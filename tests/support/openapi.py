"""The OpenAPI documents of the HTTP API: their operations, examples and schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = Path(__file__).parents[2] / "docs/reference"

#: The documents, by the port that each describes.
FILES = {
    "public": FOLDER / "openapi-public.yaml",
    "control": FOLDER / "openapi-control.yaml",
}

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


@dataclass(frozen=True)
class Example:
    """A request that a document describes."""

    method: str
    #: The path, with its query.
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Operation:
    """One operation of a document.

    :param item: what the document says of the path.
    """

    def __init__(self, document: Document, path: str, method: str, item: dict[str, Any]) -> None:
        self.path, self.method = path, method.upper()
        self._document = document
        operation = item[method]
        self.id: str = operation["operationId"]
        given = [*item.get("parameters", ()), *operation.get("parameters", ())]
        self.parameters = [document.resolve(one) for one in given]
        self.responses = {
            status: document.resolve(one) for status, one in operation["responses"].items()
        }
        body = operation.get("requestBody", {})
        self.bodies: dict[str, Any] = body.get("content", {})
        self.needs_body = bool(body.get("required"))

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def query_names(self) -> set[str]:
        """The parameters of the query."""
        return {one["name"] for one in self.parameters if one["in"] == "query"}

    def example(self, *names: str, kind: str = "", **values: object) -> Example:
        """Make the request of the document's examples.

        It has the parameters that are required, and those that are named.

        :param kind: the type of its body; the first of the document's if a body is required.
        :param values: take the place of examples; those of headers have underscores.
        """
        path, query, headers = self.path, [], {}
        for parameter in self.parameters:
            name, place = parameter["name"], parameter["in"]
            key = name.replace("-", "_")
            if not (parameter.get("required") or name in names or key in values):
                continue
            value = values.get(key, parameter.get("example"))
            assert value is not None, f"{self}: {name} has no example"
            if place == "path":
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
            elif place == "header":
                headers[name] = str(value)
            else:
                query += [(name, one) for one in (value if isinstance(value, list) else [value])]
        if not kind and self.needs_body:
            kind = next(iter(self.bodies))
        body = b""
        if kind:
            shown = self.bodies[kind].get("example", "")
            body = (shown if isinstance(shown, str) else json.dumps(shown)).encode()
            headers["Content-Type"] = kind
        target = f"{path}?{urlencode(query)}" if query else path
        return Example(self.method, target, headers, body)

    def check(self, status: int, kind: str, body: bytes) -> str:
        """Check a response; return the key of its description in the document.

        Raises AssertionError if it is not as the document says.

        :param kind: its content type, with parameters; empty if it has none.
        """
        key = str(status) if str(status) in self.responses else "default"
        assert key in self.responses, f"{self}: {status} is not described"
        content = self.responses[key].get("content", {})
        kind = kind.partition(";")[0]
        if not content:
            assert not body, f"{self}: {status} has the body {body!r}"
            return key
        media = content.get(kind) or content.get("*/*")
        assert media is not None, f"{self}: {status} has the type {kind}: {body!r}"
        if kind == "application/json":
            self._document.validate(media["schema"], json.loads(body))
        else:
            assert media["schema"].get("type") == "string", f"{self}: {kind} is text"
        return key


class Document:
    """An OpenAPI document."""

    def __init__(self, path: Path) -> None:
        self.value: dict[str, Any] = yaml.safe_load(path.read_text())
        resource = DRAFT202012.create_resource(self.value)
        self._registry: Registry[Any] = Registry().with_resource("urn:openapi", resource)

    @property
    def operations(self) -> list[Operation]:
        """All operations."""
        return [
            Operation(self, path, method, item)
            for path, item in self.value["paths"].items()
            for method in _METHODS
            if method in item
        ]

    def find(self, id: str) -> Operation:
        """Return an operation by its id."""
        [found] = [one for one in self.operations if one.id == id]
        return found

    def resolve(self, value: Any) -> Any:
        """Return what a reference refers to; other values as they are."""
        while isinstance(value, dict) and "$ref" in value:
            found: Any = self.value
            for name in value["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            value = found
        return value

    def validate(self, schema: Any, value: object) -> None:
        """Raise AssertionError if a value is not as a schema says."""
        validator = Draft202012Validator(
            _absolute(schema),
            registry=self._registry,
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        errors = [f"{one.json_path}: {one.message}" for one in validator.iter_errors(value)]
        assert not errors, f"{value}: {'; '.join(errors)}"

    def examples(self) -> Iterator[tuple[Any, object]]:
        """Yield each schema that has an example beside it, with the example."""
        yield from _find_examples(self.value)


@cache
def read_document(port: str) -> Document:
    """Return the document of a port: ``public`` or ``control``."""
    return Document(FILES[port])


def _absolute(schema: Any) -> Any:
    """Return a schema whose references name the document."""
    if isinstance(schema, dict):
        return {
            key: f"urn:openapi{value}" if key == "$ref" else _absolute(value)
            for key, value in schema.items()
        }
    return [_absolute(one) for one in schema] if isinstance(schema, list) else schema


def _find_examples(value: Any) -> Iterator[tuple[Any, object]]:
    if isinstance(value, dict):
        if "schema" in value and "example" in value:
            yield value["schema"], value["example"]
        for one in value.values():
            yield from _find_examples(one)
    elif isinstance(value, list):
        for one in value:
            yield from _find_examples(one)
