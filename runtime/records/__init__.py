"""What a run leaves behind: its directory, records, summary, tables and timeline."""
