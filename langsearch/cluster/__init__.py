"""Ray: sessions and nodes, what must hold there before a search, and searches sent from elsewhere."""
