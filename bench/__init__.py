"""pushd measured beside its rivals: ``make bench``. See README.md."""
