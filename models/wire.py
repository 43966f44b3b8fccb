"""In which precision an edge carries what is computed: what is rounded, to what, and back.

Owns that rule, for activations and ties. Knows nothing of blocks or links: who sends rounds, who
receives restores, and what lies between them carries bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WirePrecision = Literal["exact", "fp16", "bf16"]
DTYPES: Mapping[WirePrecision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
WIRE_BYTES = 2  # a number's, in either


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One edge's.

    `precision`: exact carries all as it is computed; fp16 and bf16 round real floating numbers of
    wider types to that, to nearest, a middle to even. Others, integers and booleans among them,
    cross as they are. `activation`: the type in which activations are computed. `rounds_ties`:
    gradients and weights are rounded, too.
    """

    precision: WirePrecision = "exact"
    activation: torch.dtype = torch.float32
    rounds_ties: bool = False

    def activation_dtype(self, computed: torch.dtype) -> torch.dtype:
        """In what an activation of a type crosses."""
        is_wider = computed.is_floating_point and computed.itemsize > WIRE_BYTES
        return DTYPES.get(self.precision, computed) if is_wider else computed

    def tie_dtype(self, computed: torch.dtype) -> torch.dtype:
        """In what a tie over parameters of a type crosses."""
        return self.activation_dtype(computed) if self.rounds_ties else computed

    @property
    def rounds_activations(self) -> bool:
        """Whether what arrives may differ from what was computed."""
        return self.activation_dtype(self.activation) != self.activation

    def restore(self, activation: Tensor) -> Tensor:
        """A received activation in the type in which it was computed, rounded as it is: the same
        tensor if nothing was rounded."""
        return activation.to(self.activation) if self.rounds_activations else activation


EXACT = Wire()
