"""Which ranks a job has, whether they are there, and what one says to all: through the store."""
