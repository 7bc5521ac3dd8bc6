"""Applications written for other interfaces, such as WSGI."""
