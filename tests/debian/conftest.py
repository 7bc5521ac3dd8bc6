"""Hooks of pytest."""

from __future__ import annotations

from tests.support.systemd_hooks import pytest_sessionstart, pytest_terminal_summary

__all__ = ["pytest_sessionstart", "pytest_terminal_summary"]
