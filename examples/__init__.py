"""Example views; see README.md."""
