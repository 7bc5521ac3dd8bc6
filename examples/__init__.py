"""Views to start from; see README.md."""
