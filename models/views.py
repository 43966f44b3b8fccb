"""Two random views of each image, as contrastive objectives need them.

Owns what views are to those who train on them, and affine ones with changes of tone. Knows nothing
of where images come from. All randomness is keyed on (seed, step).

Shapes: B images, C channels, H height, W width; V = 2B views.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import randomness


@runtime_checkable
class Views(Protocol):
    """Draws two views of each image: a pure function of its arguments.

    `images_BCHW` are float32 in [0, 1] and stay as they are; the result is (2B, C, H, W), all first
    views, then all second ones, of the images' dtype and device.
    """

    def __call__(self, images_BCHW: Tensor, *, seed: int, step: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ViewRanges:
    """How far a view may be from its image; each view draws every parameter uniformly.

    `rotation_deg`, `shear_deg`: up to so many degrees either way. `translate`: up to this
    fraction of the side either way. `scale`: magnification (lowest, highest); above 1 crops.
    `brightness` is added, `contrast` and `colour` (a gain for each channel) multiply by 1 plus or
    minus up to theirs. `noise_std`: per pixel. `flip`: left to right, every other time.
    """

    rotation_deg: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear_deg: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    noise_std: float = 0.0
    flip: bool = False
    padding: Literal["zeros", "border", "reflection"] = "zeros"

    def __post_init__(self) -> None:
        for name in (
            "rotation_deg",
            "translate",
            "shear_deg",
            "brightness",
            "contrast",
            "colour",
            "noise_std",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; give 0 or above")
        if self.shear_deg >= 90:
            raise ValueError(f"shear_deg={self.shear_deg}; give less than 90")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale={self.scale}; give (lowest, highest), both above 0")

    def __call__(self, images_BCHW: Tensor, *, seed: int, step: int) -> Tensor:
        """Draw both views (models.views.Views)."""
        return two_views(images_BCHW, self, seed=seed, step=step)


DIGITS = ViewRanges(
    rotation_deg=15.0,
    translate=0.12,
    scale=(0.8, 1.2),
    shear_deg=15.0,
    brightness=0.1,
    contrast=0.4,
    noise_std=0.1,
)
GENERIC = ViewRanges(
    rotation_deg=10.0,
    translate=0.15,
    scale=(1.0, 2.0),
    brightness=0.2,
    contrast=0.4,
    colour=0.3,
    flip=True,
    padding="reflection",
)


def two_views(images_BCHW: Tensor, ranges: ViewRanges, *, seed: int, step: int) -> Tensor:
    """Return both views of every image, (2B, C, H, W): all first views, then all second ones.

    Contiguous, of the images' dtype and device, and a pure function of the arguments.
    """
    rng = randomness.generator(seed, "views", step=step)
    num_views = 2 * len(images_BCHW)
    device = images_BCHW.device
    theta_V23 = torch.from_numpy(_affine(rng, num_views, ranges)).to(device)
    gain_VC11, offset_V111 = _tones(rng, num_views, images_BCHW.shape[1], ranges)

    x_VCHW = torch.cat([images_BCHW, images_BCHW])
    grid_VHW2 = functional.affine_grid(theta_V23, list(x_VCHW.shape), align_corners=False)
    x_VCHW = functional.grid_sample(
        x_VCHW, grid_VHW2, padding_mode=ranges.padding, align_corners=False
    )
    x_VCHW = torch.addcmul(offset_V111.to(device), x_VCHW, gain_VC11.to(device))
    if ranges.noise_std:
        noise = rng.standard_normal(x_VCHW.shape, dtype=np.float32)
        x_VCHW.add_(torch.from_numpy(noise).to(device), alpha=ranges.noise_std)
    return x_VCHW.contiguous()


def _affine(rng: np.random.Generator, num_views: int, ranges: ViewRanges) -> np.ndarray:
    """Draw (V, 2, 3) maps from a view's coordinates (-1 to 1) to its image's."""
    angle = np.deg2rad(_symmetric(rng, num_views, ranges.rotation_deg))
    shear = np.tan(np.deg2rad(_symmetric(rng, num_views, ranges.shear_deg)))
    shift_V2 = 2 * _symmetric(rng, (num_views, 2), ranges.translate)
    low, high = ranges.scale
    zoom = 1 / (low + (high - low) * rng.random(num_views, dtype=np.float32))
    mirror = np.where(rng.random(num_views) < 0.5, -1, 1) if ranges.flip else 1

    cos, sin = np.cos(angle), np.sin(angle)
    theta_V23 = np.empty((num_views, 2, 3), dtype=np.float32)
    theta_V23[:, 0, 0] = zoom * cos * mirror
    theta_V23[:, 0, 1] = zoom * (shear * cos - sin)
    theta_V23[:, 1, 0] = zoom * sin * mirror
    theta_V23[:, 1, 1] = zoom * (shear * sin + cos)
    theta_V23[:, :, 2] = shift_V2
    return theta_V23


def _tones(
    rng: np.random.Generator, num_views: int, num_channels: int, ranges: ViewRanges
) -> tuple[Tensor, Tensor]:
    """Draw each view's gain (V, C, 1, 1) and offset (V, 1, 1, 1)."""
    gain_V1 = 1 + _symmetric(rng, (num_views, 1), ranges.contrast)
    gain_VC = gain_V1 * (1 + _symmetric(rng, (num_views, num_channels), ranges.colour))
    offset_V = _symmetric(rng, num_views, ranges.brightness)
    return (
        torch.from_numpy(gain_VC)[:, :, None, None],
        torch.from_numpy(offset_V)[:, None, None, None],
    )


def _symmetric(rng: np.random.Generator, shape: int | tuple[int, ...], extent: float) -> np.ndarray:
    return np.float32(extent) * (2 * rng.random(shape, dtype=np.float32) - 1)
