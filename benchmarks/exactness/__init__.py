"""Real processes against one sequential loop, bit for bit, in every cell."""
