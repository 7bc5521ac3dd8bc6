"""The documentation as a site: ``make docs`` builds it with Sphinx."""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from pushd import __version__

sys.path.insert(0, str(Path(__file__).parent))

from openapi_page import find_documents, replace_blocks  # Beside this file, which is in no package.

project = "pushd"
author = "the pushd contributors"
project_copyright = f"{date.today().year}, {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# Headings get the anchors that links on GitHub use.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"pushd {version}"
html_favicon = "../web/favicon.svg"
# Every asset comes from the site itself: no font, script or picture of another host.
html_theme_options = {"navigation_with_keys": True, "sidebar_hide_name": False}
html_copy_source = False
html_show_sphinx = False

# The reader's own daemon.
linkcheck_ignore = [r"http://(127\.0\.0\.1|localhost)[:/]"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}


# Links to folders and documents beside these: the site has no page for them.
_OUTSIDE = re.compile(r"\[([^]]+)\]\(\.\./[^)]*(?:/|\.md(?:#[^)]*)?)\)")

# What a page loads from another host.
_FOREIGN = re.compile(r"<(?:link|script|img|iframe)\b[^>]*\b(?:href|src)=\"(?:https?:)?//[^\"]*")


def keep_text(app: Sphinx, name: str, content: list[str]) -> None:
    """Leave the text of a link that would lead out of the site."""
    if "/" not in name:
        content[0] = _OUTSIDE.sub(r"\1", content[0])


def show_operations(app: Sphinx, name: str, content: list[str]) -> None:
    """Put what OpenAPI documents describe into a page."""
    folder = Path(app.srcdir, name).parent
    for document in find_documents(content[0]):
        app.env.note_dependency(str(folder / document))
    content[0] = replace_blocks(content[0], folder)


def refuse_foreign(app: Sphinx, error: Exception | None) -> None:
    """Raise ExtensionError if a page loads anything from another host."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            if found := _FOREIGN.search(page.read_text()):
                raise ExtensionError(f"{page}: loads {found[0]}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", keep_text)
    app.connect("source-read", show_operations)
    app.connect("build-finished", refuse_foreign)
