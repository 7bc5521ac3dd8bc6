"""Time: ticks, timeouts, one clock for thousands of timers, and coroutines."""

from pushd.schedule.ticks import PushSchedule

__all__ = ["PushSchedule"]
