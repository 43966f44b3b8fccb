"""How good frozen features are on held-out images, by kNN and by a linear classifier."""
