"""pushd as a service of a real systemd: ``make systemd`` boots one, and runs these tests there."""
