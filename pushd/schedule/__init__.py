"""Time: ticks, timeouts, one timer for thousands of calls, and coroutines."""

from pushd.schedule.ticks import PushSchedule

__all__ = ["PushSchedule"]
