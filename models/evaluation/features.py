"""What a network's units give for images, pooled: the network is frozen and in eval mode.

Owns a network of its own, built from the weights, so that nothing here reaches one that trains.
Knows nothing of labels or of what the features are for.

Shapes: N images of C channels, H by W; F features.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.arrays import to_unit_range
from models.network import Network, Plain, build_plain, run_unit
from models.pooling import pool

MAX_REASON = 200  # characters of torch's own words on weights that don't fit


def unit_features(
    network: Network,
    state: dict[str, Tensor],
    images_NCHW: Tensor,
    *,
    units: Sequence[int] | None = None,
    rows: Tensor | None = None,
    batch_size: int = 256,
    after_batch: Callable[[int], None] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Return the pooled features (N, F) float32 after each of `units` (all), by name, lowest first.

    Of the images only those of the indices `rows` are sent through, on the images' device. No more
    is kept than what is returned. `state` is the plain network's state dict (a classifier `fc` is
    left out); it is copied and stays as it is. `after_batch` is given the images done so far.
    Raises ValueError if the state belongs to another network, UsersError if a unit raises in eval
    mode.
    """
    plain = _restore(network, state).to(images_NCHW.device)
    chosen = sorted(range(len(network.units)) if units is None else units)
    rows = torch.arange(len(images_NCHW)) if rows is None else rows
    found: dict[str, np.ndarray] = {}
    begin = 0
    for batch_rows in torch.split(rows, batch_size):
        end = begin + len(batch_rows)
        with torch.inference_mode():
            x = _network_input(images_NCHW, batch_rows)
            for index in range(chosen[-1] + 1):
                x = run_unit(network, index, plain.order[index], x)
                if index in chosen:
                    features_BF = pool(x).flatten(1).float().cpu().numpy()
                    name, num_features = network.units[index].name, features_BF.shape[1]
                    if name not in found:
                        found[name] = np.empty((len(rows), num_features), dtype=np.float32)
                    found[name][begin:end] = features_BF
        begin = end
        after_batch(end)
    return found


def _network_input(images_NCHW: Tensor, rows: Tensor) -> Tensor:
    """A batch as the first unit takes it: a copy, for a user's unit may work in place."""
    return to_unit_range(images_NCHW[rows])


def _restore(network: Network, state: dict[str, Tensor]) -> Plain:
    plain = build_plain(network, seed=0)
    weights = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    weights |= {name: state[name] for name in plain.state_dict() if name in state}
    try:
        plain.load_state_dict(weights)
    except RuntimeError as error:
        _, *problems = str(error).splitlines() or [""]
        reason = " ".join(problems).replace("\t", "")
        shown = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} ..."
        raise ValueError(
            f"these are not the weights of network {network.name!r}; evaluate them with the model"
            f" and the shape of images that they were trained with ({shown})"
        ) from error
    return plain.eval().requires_grad_(False)
