In a topic pattern, `ns:*` matches a segment that begins with `ns:`, as the namespaces of Centrifugo do.
