"""Strangers who attack a real run from outside, and what became of it."""
