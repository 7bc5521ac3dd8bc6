"""pushd as a Debian package: ``make deb-test`` boots a systemd, and installs it there."""
