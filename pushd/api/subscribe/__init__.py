"""The topics of the public port: one or many over a connection, by each transport."""
