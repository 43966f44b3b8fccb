"""What surviving costs when nothing fails."""
