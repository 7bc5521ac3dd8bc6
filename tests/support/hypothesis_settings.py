"""Hypothesis settings for tests that may be slow."""

from __future__ import annotations

from functools import partial

from hypothesis import HealthCheck, settings

#: No deadline for an example, and no health check of how long it takes to generate.
NO_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Makes such settings for a test that gets the same examples in every run.
same_examples = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
