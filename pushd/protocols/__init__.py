"""Bytes to requests and messages, and back."""
