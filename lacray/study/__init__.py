"""A study: its space, its manifest, what is tried next, and how its trials are followed to their end."""
