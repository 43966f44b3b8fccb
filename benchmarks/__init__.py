"""Figures that can be run again: one harness, a folder a claim."""
