"""The tests that Centrifugo's SDKs have of their own for a running server, against pushd.

They are fetched, never kept here: ``make sdk-suites``. ``left_out.toml`` says which are not run.
"""
