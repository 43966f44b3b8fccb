"""How fast each link is, beside what its parts can do at most."""
