"""The broker that shares topics between processes through Redis."""
