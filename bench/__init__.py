"""Benchmark of pushd and its rivals: ``make bench``. See README.md."""
