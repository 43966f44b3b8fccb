"""Which lag to choose: throughput over it, beside accuracy."""
