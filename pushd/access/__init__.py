"""Access control: origins, tokens, limits and quotas; open connections and how they end."""
