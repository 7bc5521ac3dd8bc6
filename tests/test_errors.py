"""The tree of exceptions."""

from __future__ import annotations

import ast
import inspect

from twisted.trial.unittest import SynchronousTestCase

from pushd import errors
from tests.test_house import read_sources

# Exceptions that stay where they are raised: no other module catches them.
LOCAL: set[str] = set()


class TreeTests(SynchronousTestCase):
    """All exceptions are in one tree on one page."""

    def test_documented(self) -> None:
        """The tree in the module's docstring shows every exception in its place."""
        picture = inspect.getdoc(errors) or ""
        for name, value in vars(errors).items():
            if isinstance(value, type) and issubclass(value, BaseException):
                self.assertIn(f" {name} ", f"{picture} ".replace("\n", " "), name)

    def test_one_root(self) -> None:
        """Every exception is a PushdError, except the one that views must not catch by accident."""
        for value in vars(errors).values():
            if isinstance(value, type) and issubclass(value, BaseException):
                over = value is errors.ConversationOver
                self.assertNotEqual(issubclass(value, errors.PushdError), over)
                self.assertEqual(issubclass(value, Exception), not over)

    def test_nowhere_else(self) -> None:
        """No other module defines a public exception."""
        found = {
            f"{name}.{node.name}"
            for name, source in read_sources().items()
            if name != "errors"
            for node in ast.parse(source).body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            for base in node.bases
            if ast.unparse(base).rpartition(".")[2] in (*vars(errors), "Exception", "ValueError")
        }
        self.assertEqual(found, LOCAL)
