"""Hypothesis settings for tests that may be slow, and for those that ``make fuzz`` runs."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: No deadline for an example, and no health check of how long it takes to generate.
NO_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: The environment variable that ``make fuzz`` sets: by how much it multiplies the examples.
FUZZ_VARIABLE = "FUZZ_EXAMPLES"


def same_examples(*, max_examples: int) -> settings:
    """Return settings for a test that gets the same examples in every run.

    In ``make fuzz`` it gets more, and others each time; those that fail are kept in
    ``.hypothesis``, and tried first in the next run.
    """
    unhurried = settings(
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    factor = os.environ.get(FUZZ_VARIABLE)
    if factor is None:
        return settings(unhurried, derandomize=True, database=None, max_examples=max_examples)
    # Said, as the default is another if the environment looks like that of a CI.
    return settings(unhurried, derandomize=False, max_examples=max_examples * int(factor))
