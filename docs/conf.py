"""The documentation as a site: ``make docs`` builds it with Sphinx."""

from __future__ import annotations

from datetime import date

from docutils.nodes import Element, TextElement
from sphinx.application import Sphinx

from pushd import __version__

project = "pushd"
author = "the pushd contributors"
project_copyright = f"{date.today().year}, {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# Headings get the anchors that links on GitHub use.
myst_heading_anchors = 4
nitpicky = False

html_theme = "furo"
html_title = f"pushd {version}"
html_favicon = "../web/favicon.svg"
# Every asset comes from the site itself: no font, script or picture of another host.
html_theme_options = {"navigation_with_keys": True, "sidebar_hide_name": False}
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# The interfaces that a class has for the framework below it are in camelCase, and not for users.
autodoc_default_options = {"members": True, "show-inheritance": False}


def keep_text(app: Sphinx, env: object, node: Element, text: TextElement) -> TextElement | None:
    """Show a link to a file beside the documentation as its text: the site has no such page."""
    target = str(node.get("reftarget", ""))
    return text if target.startswith("../") or "/work/" in target else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", keep_text)
