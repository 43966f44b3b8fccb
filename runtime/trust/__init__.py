"""Whom a job's processes believe: one secret, and what is derived from it."""
