"""The process that announces the job, shows it and records it."""
