"""Imported by the fork server when it starts: makes it die with its keeper."""

from runtime.lifetime import die_with_parent

die_with_parent()
