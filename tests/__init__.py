"""Tests of pushd. ``PUSHD_FAST_PATHS=off`` runs those in memory without the fast paths."""

import os

from pushd.protocols.fast_paths import FAST_PATHS

FAST_PATHS.enabled = os.environ.get("PUSHD_FAST_PATHS", "on") != "off"
