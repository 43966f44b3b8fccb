"""Stand-ins that run the real core (a simulated network and clock, slept blocks), and a place for
jobs that are real."""
