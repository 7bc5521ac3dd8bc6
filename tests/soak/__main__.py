"""Runs the soak test: ``python -m tests.soak --minutes 60``."""

from __future__ import annotations

import sys

from tests.soak.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
