"""Starts python -m benchmarks.simulated_faults."""

from benchmarks.harness import run_command
from benchmarks.simulated_faults.plans import main

run_command(main)
