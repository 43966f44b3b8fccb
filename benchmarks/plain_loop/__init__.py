"""A block's step against a plain torch loop's over the same network, head and loss."""
