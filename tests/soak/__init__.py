"""A soak test: thousands of clients on two nodes for an hour, after which nothing has grown.

``python -m tests.soak`` starts a Redis and two daemons. It lets clients of every transport come,
stall, break off and resume, publishes, reloads the daemons and kills the Redis. It fails if a
subscriber has missed a publication, or if a resource of a daemon or of Redis keeps growing.
"""
