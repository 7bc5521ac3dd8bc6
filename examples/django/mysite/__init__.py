"""A small Django site on pushd: a page that is pushed to, and a chat."""
