"""How messages cross an edge. A link knows messages and bytes, never what they mean."""
