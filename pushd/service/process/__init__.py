"""The process: its signals and limits, reactor, event loop, garbage, log, and systemd."""
