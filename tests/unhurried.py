"""What Hypothesis makes of a machine that has other things to do: nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

#: For tests whose examples may take their time, to be made and to be tried.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
