"""The Autobahn|Testsuite against a running pushd; not part of the tests, as it needs Python 2.7."""
