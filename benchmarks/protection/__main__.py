"""Starts python -m benchmarks.protection."""

from benchmarks.harness import run_command
from benchmarks.protection.cost import main

run_command(main)
