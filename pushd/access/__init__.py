"""Access control: origins, proxies, tokens and limits; the open connections and their end."""
