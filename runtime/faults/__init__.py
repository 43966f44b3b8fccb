"""Faults on purpose: the plan as data, and how each is carried out in real processes."""
