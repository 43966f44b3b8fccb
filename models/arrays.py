"""From the arrays that a user gives to tensors that can be trained on.

Owns which arrays are taken, what becomes of them, and what is said of all others. Knows nothing of
splits or steps. `what` names an array in errors: "train images".
"""

import warnings

import numpy as np
import torch
from torch import Tensor

IMAGES = "give (N, C, H, W) float32 in [0, 1], or uint8"
LABELS = "give one int64 label an image, -1 if unknown"
SLICE_VALUES = 1 << 22  # images are looked at in slices, so that a large set needs no second copy


def to_images(value: object, what: str) -> Tensor:
    """Take images: uint8 stays as it is and where it lies, floating types become float32.

    Raises ValueError for whatever is not (N, C, H, W), and for values that are not finite.
    """
    images = _to_tensor(value, what, IMAGES)
    form = f"{what} of shape {tuple(images.shape)}, {_name(images.dtype)}"
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"{form}; {IMAGES}")
    if images.ndim != 4 and images.numel():
        grey = ": images[:, None], if they have one channel" if images.ndim == 3 else ""
        raise ValueError(f"{form}; {IMAGES}{grey}")
    if images.dtype == torch.uint8:
        return images
    images = images.float()
    _check_finite(images, what)
    return images


def to_unit_range(images_NCHW: Tensor) -> Tensor:
    """A batch as float32: uint8 is scaled to [0, 1], floats are given back as they are."""
    if images_NCHW.dtype == torch.uint8:
        return images_NCHW.float().div_(255)
    return images_NCHW


def to_labels(value: object, what: str) -> Tensor:
    """Take labels of any integer type as int64. Raises ValueError for whatever is not (N,)."""
    labels = _to_tensor(value, what, LABELS)
    if not labels.numel():
        return labels.reshape(-1).long()
    form = f"{what} of shape {tuple(labels.shape)}, {_name(labels.dtype)}"
    if labels.ndim == 2:
        column = "argmax(1), if they are one-hot" if labels.shape[1] > 1 else "reshape(-1)"
        raise ValueError(f"{form}; {LABELS}: labels.{column}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{form}; {LABELS}: classes are whole numbers")
    return labels.long()


def _to_tensor(value: object, what: str, needed: str) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise ValueError(f"{what} are a sparse tensor; {needed}: tensor.to_dense()")
        return value.detach().cpu()
    if value is None:
        raise ValueError(f"{what} are None; {needed}")
    try:
        if isinstance(value, list | tuple) and all(isinstance(one, Tensor) for one in value):
            return torch.stack(list(value)).detach().cpu() if value else torch.empty(0)
        array = np.asarray(value)
    except (ValueError, RuntimeError) as error:  # numpy's and torch's, for rows of other shapes
        raise ValueError(f"{what} are a list of unequal shapes; {needed}") from error
    if array.dtype.kind in "US":
        raise ValueError(
            f"{what} are strings; {needed}: number the classes, such as by"
            " numpy.unique(labels, return_inverse=True)"
        )
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        kind = type(value).__name__ if array.ndim == 0 else f"an array of {array.dtype}"
        raise ValueError(f"{what} are {kind}; {needed}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if min(array.strides, default=0) < 0:  # flipped, which torch can't have
        array = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays that can't be written: nothing here does
        return torch.from_numpy(array)


def _check_finite(images_NCHW: Tensor, what: str) -> None:
    if not images_NCHW.numel():
        return
    bad = []
    per_slice = max(1, SLICE_VALUES // images_NCHW[0].numel())
    for begin in range(0, len(images_NCHW), per_slice):
        slice_NCHW = images_NCHW[begin : begin + per_slice]
        low, high = slice_NCHW.aminmax()  # NaN, if there is one
        if not (low.isfinite() and high.isfinite()):
            is_good_N = slice_NCHW.isfinite().flatten(1).all(dim=1)
            bad += [begin + int(i) for i in torch.nonzero(~is_good_N)]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(images_NCHW)} {what} hold values that are not finite (NaN or"
            f" infinity), the first at index {bad[0]}; leave them out or mend them"
        )


def value_range(images_NCHW: Tensor) -> tuple[float, float]:
    """The lowest and the highest value."""
    per_slice = max(1, SLICE_VALUES // images_NCHW[0].numel())
    lows, highs = zip(*(part.aminmax() for part in images_NCHW.split(per_slice)), strict=True)
    return float(min(lows)), float(max(highs))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
