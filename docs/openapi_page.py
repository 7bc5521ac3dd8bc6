"""The HTTP API as a page: Markdown made from its OpenAPI documents, for Sphinx and MyST.

A page has a block of the language ``{openapi}`` that names a document beside it; ``conf.py`` puts
what is made from that in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_BLOCK = re.compile(r"^```\{openapi\} (\S+)\n```$", re.MULTILINE)

_METHODS = ("get", "post", "put", "patch", "delete", "options")


def find_documents(text: str) -> list[str]:
    """Return the names of the documents that the blocks of a page name."""
    return _BLOCK.findall(text)


def replace_blocks(text: str, folder: Path) -> str:
    """Return the text of a page with each block replaced by what its document describes."""

    def render(block: re.Match[str]) -> str:
        return render_document(yaml.safe_load((folder / block[1]).read_text()))

    return _BLOCK.sub(render, text)


def render_document(document: dict[str, Any]) -> str:
    """Return the Markdown of a document: its operations by tag, then its schemas."""
    info, tags = document["info"], document.get("tags", [])
    parts = [info["description"], *_servers(document)]
    for tag in tags:
        parts += [f"### {tag['name']}", tag.get("description", "")]
        for path, method, operation in find_operations(document):
            if tag["name"] in operation["tags"]:
                parts += _operation(document, path, method, operation)
    parts.append("### Schemas")
    for name, schema in document["components"]["schemas"].items():
        parts += [f"#### {name}", schema.get("description", ""), *_members(schema)]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def find_operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the operation, with the parameters of its path, of each."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
                yield path, method, {**operation, "parameters": parameters}


def resolve(document: dict[str, Any], value: Any) -> Any:
    """Return what a reference within a document refers to; other values as they are."""
    while isinstance(value, dict) and str(value.get("$ref", "")).startswith("#/"):
        found: Any = document
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def _servers(document: dict[str, Any]) -> Iterator[str]:
    for server in document["servers"]:
        yield f"It is at `{server['url']}`, {server['description']}."


def _operation(
    document: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f"#### `{method.upper()} {path}`"
    yield f"**{operation['summary']}.** {operation.get('description', '')}"
    rows = []
    for parameter in operation["parameters"]:
        parameter = resolve(document, parameter)
        rows.append(
            (
                f"`{parameter['name']}`",
                parameter["in"] + (", required" if parameter.get("required") else ""),
                _type(parameter["schema"]),
                parameter.get("description", ""),
            )
        )
    yield _table(("parameter", "in", "type", "description"), rows)
    body = operation.get("requestBody", {})
    if body:
        rows = [(f"`{kind}`", _type(media["schema"])) for kind, media in body["content"].items()]
        yield _table(("body", "type"), rows)
    rows = []
    for status, response in operation["responses"].items():
        response = resolve(document, response)
        content = response.get("content", {})
        rows.append(
            (
                "other" if status == "default" else status,
                response["description"],
                "<br>".join(
                    f"`{kind}`: {_type(media['schema'])}" for kind, media in content.items()
                ),
            )
        )
    yield _table(("status", "meaning", "body"), rows)


def _members(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    rows = []
    for name, member in schema.get("properties", {}).items():
        member_type = _type(member)
        optional = "" if name in required else ", optional"
        rows.append((f"`{name}`", f"{member_type}{optional}", member.get("description", "")))
    yield _table(("member", "type", "meaning"), rows)
    if not rows:
        yield f"Type: {_type(schema)}"


def _type(schema: dict[str, Any]) -> str:
    """Return a short name of what a schema allows."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    for word, joint in (("oneOf", " or "), ("allOf", " and ")):
        named = [one for one in schema.get(word, []) if set(one) != {"required"}]
        if named and "properties" not in schema:
            return joint.join(_type(one) for one in named)
    kinds = schema.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else kinds
    text = " or ".join(names)
    if "array" in names and "items" in schema:
        text = text.replace("array", f"array of {_type(schema['items'])}", 1)
    if "object" in names and "properties" in schema:
        members = ", ".join(f"`{name}`" for name in schema["properties"])
        text = f"{text} of {members}"
    if "minimum" in schema and "maximum" in schema:
        text += f", {schema['minimum']} to {schema['maximum']}"
    if "default" in schema:
        text += f", default {schema['default']}"
    return text


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
