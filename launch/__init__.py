"""Scripts a person runs, and the configuration they share; joins models and runtime."""
