"""Random fault plans on the simulated network."""
