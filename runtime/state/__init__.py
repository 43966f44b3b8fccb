"""What outlives a process: memory that keepers own, snapshots, retention, checkpoints on disk."""
