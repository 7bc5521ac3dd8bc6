"""What pushd promises, proved."""
