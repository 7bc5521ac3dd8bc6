"""HTTP/1.1 on top of twisted.web."""
