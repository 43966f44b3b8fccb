"""Data sets that lie on the disk: a file for each layout, and what they have in common."""
