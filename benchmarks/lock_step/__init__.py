"""Lock-step pipelines on the same work: the baselines of throughput and memory."""
