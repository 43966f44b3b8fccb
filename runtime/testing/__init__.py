"""Stand-ins that run the real core: a simulated network and clock, slept blocks."""
