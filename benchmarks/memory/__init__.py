"""How much memory each process takes, beside the baselines."""
