"""Which training images are held out to choose settings by, and which few are trained on.

Owns these draws, which no run's seed moves. Knows nothing of where images come from.
"""

import numpy as np
import torch
from torch import Tensor

from models import randomness


def stratified_order(labels_N: np.ndarray) -> np.ndarray:
    """Return an order (N,) of which every last part of the labelled images is a stratified draw.

    Unlabelled images (-1) come first. Each class is shuffled, and its members are spread evenly
    over the rest. Images that are stored so can be held out, whatever the share, without a copy.
    """
    known = np.flatnonzero(labels_N >= 0)
    place_N = np.full(len(labels_N), -1.0)  # in its class, from 0 to 1
    for label in np.unique(labels_N[known]):
        members = np.flatnonzero(labels_N == label)
        order = randomness.generator(0, "validation", step=int(label)).permutation(members)
        place_N[order] = (np.arange(len(order)) + 0.5) / len(order)
    return np.lexsort((np.arange(len(labels_N)), labels_N, place_N))


def draw_few(labels: Tensor, num_images: int) -> Tensor:
    """Return the indices of so many images, in rising order: a stratified draw of labelled ones.

    Raises ValueError if there are not so many.
    """
    num_known = int((labels >= 0).sum())
    if num_images > num_known:
        raise ValueError(
            f"train-images {num_images} of {num_known} labelled training images; give at most"
            f" {num_known}, or leave it out"
        )
    order = stratified_order(labels.numpy())
    return torch.from_numpy(np.sort(order[len(order) - num_images :]))


def split_off(
    labels: Tensor, share: float, *, is_stratified: bool = False
) -> tuple[slice | Tensor, slice | Tensor]:
    """Return which images go on training, and which are held out: `share` of the labelled ones.

    `is_stratified`: they already lie in `stratified_order`; then both are slices. Raises ValueError
    if nothing would be left on one side.
    """
    num_known = int((labels >= 0).sum())
    num_held_out = round(share * num_known)
    if not 0 < num_held_out < num_known:
        raise ValueError(
            f"validation {share} of {num_known} labelled training images holds out {num_held_out};"
            " give a share that holds out at least 1 and leaves at least 1"
        )
    num_left = len(labels) - num_held_out
    if is_stratified:
        return slice(0, num_left), slice(num_left, None)
    order = stratified_order(labels.numpy())
    left, held_out = np.sort(order[:num_left]), np.sort(order[num_left:])
    return torch.from_numpy(left), torch.from_numpy(held_out)
