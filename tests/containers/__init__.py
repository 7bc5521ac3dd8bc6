"""deploy/Dockerfile, built and run in namespaces, without Docker: ``make containers``."""
