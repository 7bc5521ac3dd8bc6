"""Helpers of the tests: test cases, fakes, clients and servers."""
