"""Starts python -m benchmarks.faults."""

from benchmarks.faults.campaign import main
from benchmarks.harness import run_command

run_command(main)
