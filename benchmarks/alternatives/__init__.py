"""Local learning beside what a user would train the same network with on one machine."""
