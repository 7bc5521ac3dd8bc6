"""What only real sockets and processes show."""
