"""Starts python -m benchmarks.security."""

from benchmarks.harness import run_command
from benchmarks.security.campaign import main

run_command(main)
