"""Topics on disk: the histories of a single node, kept in SQLite beside memory."""
