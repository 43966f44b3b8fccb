"""What a worker knows of a neighbour: which generation is there, and whether it knows ours.

Owns the handshake. Each end says hello until it has heard its own generation back; only then is
anything sent, so that nothing can reach a generation that it was not meant for.
"""

from dataclasses import dataclass

from runtime.core.messages import Hello


@dataclass
class Peer:
    """The neighbour on one side. `is_linked`: it has said that it knows our generation."""

    generation: int | None = None
    is_linked: bool = False

    def hear(self, hello: Hello, *, ours: int) -> bool:
        """Take a hello that is not fenced off; True if it completes the handshake.

        A new generation of the neighbour begins the handshake anew.
        """
        assert not self.fences(hello.generation)
        if hello.generation != self.generation:
            self.generation, self.is_linked = hello.generation, False
        completes = hello.to == ours and not self.is_linked
        self.is_linked |= completes
        return completes

    def fences(self, generation: int) -> bool:
        """Whether a hello comes from a generation of the neighbour that is over."""
        return self.generation is not None and generation < self.generation
