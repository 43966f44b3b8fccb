"""What is learned: networks as lists of units, heads, objectives, data, views, evaluation."""
