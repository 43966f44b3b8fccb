"""The process that supervises: starts a rank's processes, restarts them, and writes checkpoints."""
