"""Publications: kept, ordered, fanned out and scheduled."""
