"""Random draws as a pure function of (seed, purpose, unit, step).

Owns the derivation of keys and the generators seeded by them. No generator lives longer than
one use, so nothing is carried from step to step: a guest draws what its home draws, a restarted
worker draws what it drew before, and where the network is cut changes nothing.
"""

import hashlib

import numpy as np
import torch


def key(seed: int, purpose: str, *, unit: str = "", step: int = 0) -> int:
    """Return the 64-bit key of one draw; equal arguments give equal keys on any machine."""
    text = f"{seed}/{purpose}/{unit}/{step}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *, unit: str = "", step: int = 0) -> np.random.Generator:
    """Return a counter-based generator (Philox, doi:10.1145/2063384.2063405) for one draw."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, unit=unit, step=step)))


def seed_torch(seed: int, purpose: str, *, unit: str = "", step: int = 0) -> None:
    """Seed torch's global generators, for code that takes no generator (init, dropout)."""
    torch.manual_seed(key(seed, purpose, unit=unit, step=step))
