"""What no saved state can hold of a user's unit, head or optimizer, and shows as it trains."""


class Unsaveable(ValueError):
    """A block's state can't be saved, or a new worker couldn't take it over. To start one again
    would not help: it would come to the same."""
