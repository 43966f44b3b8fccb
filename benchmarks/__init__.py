"""Figures that can be run again: one harness, one script a claim."""
