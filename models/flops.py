"""How many floating point operations something takes, counted while it runs.

Owns the counting only: what runs, and for whom, is the caller's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _lstm_layer(x_TNF: Tensor, from_input: Tensor, from_hidden: Tensor, *_: Any, **__: Any) -> int:
    """Two FLOPs for each weight of each sample at each time."""
    num_times, num_samples = x_TNF.shape[:2]
    return 2 * num_times * num_samples * (from_input.numel() + from_hidden.numel())


# Forward kernels of CPUs that torch's registry lacks.
OF_CPUS: Mapping[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mkldnn_rnn_layer: _lstm_layer,
}


class FlopCount(TorchDispatchMode):
    """Counts, while it is entered, the FLOPs of what torch's own registry and OF_CPUS know.

    Of the former the same figures as torch's FlopCounterMode, which imports the compiler on its
    first use (2 s of every start).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is ever compiled; torch would import its compiler to say so

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        kernel = func._overloadpacket
        count: Callable[..., int] | None = OF_CPUS.get(kernel) or flop_registry.get(kernel)
        if count is not None:
            self.total += int(count(*args, **(kwargs or {}), out_val=made))
        return made
