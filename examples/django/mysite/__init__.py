"""A small Django site on pushd: a page that receives pushes, and a chat."""
