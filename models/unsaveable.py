"""What no saved state can hold of a user's unit, head or optimizer, and shows as it trains."""


class Unsaveable(ValueError):
    """A block's state can't be saved, or not be taken over by a new worker, which could but find
    the same again."""
