"""Building a release, and checking it as those who install it see it."""
