"""What a config means for this machine: costs, cuts, memory, streams, rates, and a report."""
