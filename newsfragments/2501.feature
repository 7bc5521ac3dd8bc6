`/metrics` has `pushd_timers`: calls that are scheduled for later. The dashboard shows it.
