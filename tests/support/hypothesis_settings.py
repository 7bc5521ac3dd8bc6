"""Hypothesis settings for tests that may be slow."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

#: No deadline for an example, and no health check of how long it takes to generate.
NO_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
