"""SimCLR's augmentation (arXiv 2002.05709, appendix A): crop, flip, jitter of colours, grey, blur.

Owns its parameters and their drawing, one for each view and keyed on (seed, step), and the torch
operations, which run on all views at once where the images are. Knows nothing of where images come
from.

Images of one channel have no colour: their saturation, hue and greyness are left alone.

Shapes: B images, V = 2B views, C channels, H height, W width, K taps of a blur's kernel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models import randomness

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
TRIES = 10  # at a crop that lies within the image, before all of it is taken
PIXELS_AT_ONCE = 1 << 16  # that a CPU changes the tones of: so many stay in its cache
LEAST_SPREAD = 1e-12  # of a pixel's channels; below it the pixel is grey and has no hue

Change = tuple[Callable[[Tensor, Tensor], None], Tensor]  # of views in place, and by how much


@dataclass(frozen=True, kw_only=True)
class SimCLRViews:
    """How a view is made of its image; a callable of models.views.Views.

    `crop_area` and `crop_aspect`: the lowest and highest share of the image's area, and width by
    height, of the part that is scaled to the whole. `strength` scales the jitter: brightness,
    contrast and saturation change by up to 0.8 times it, the hue by 0.2 of a turn times it.
    `blur_sigma` is in pixels; the kernel takes `blur_side` of the side.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    strength: float = 1.0
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_side: float = 0.1
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("jitter_probability", "grey_probability", "blur_probability", "blur_side"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; give 0 to 1")
        for name in ("crop_area", "crop_aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}={low, high}; give (lowest, highest), both above 0")
        if self.crop_area[1] > 1:
            raise ValueError(f"crop_area={self.crop_area}; give at most 1, all of the image")
        if not 0 <= self.strength <= 2.5:
            raise ValueError(f"strength={self.strength}; give 0 to 2.5, half a turn of hue")

    def __call__(self, images_BCHW: Tensor, *, seed: int, step: int) -> Tensor:
        """Draw both views (models.views.Views)."""
        rng = randomness.generator(seed, "views", step=step)
        num_views, device = 2 * len(images_BCHW), images_BCHW.device
        num_channels, height, width = images_BCHW.shape[1:]

        theta_V23 = torch.from_numpy(self._crops(rng, num_views, height, width)).to(device)
        x_VCHW = _sample(torch.cat([images_BCHW, images_BCHW]), theta_V23)
        if self.strength and self.jitter_probability:
            self._jitter(rng, x_VCHW)
        if self.grey_probability and num_channels == 3:
            is_grey_V = rng.random(num_views) < self.grey_probability
            x_VCHW = torch.where(_per_view(is_grey_V, device), _grey(x_VCHW), x_VCHW)
        if self.blur_probability:
            self._blur(rng, x_VCHW)
        return x_VCHW.contiguous()

    def _crops(
        self, rng: np.random.Generator, num_views: int, height: int, width: int
    ) -> np.ndarray:
        """Draw (V, 2, 3) maps from a view's coordinates (-1 to 1) to its image's."""
        shape = (num_views, TRIES)
        area = height * width * rng.uniform(*self.crop_area, shape)
        narrowest, widest = map(math.log, self.crop_aspect)
        aspect = np.exp(rng.uniform(narrowest, widest, shape))
        crop_width, crop_height = np.sqrt(area * aspect), np.sqrt(area / aspect)
        fits = (crop_width <= width) & (crop_height <= height)
        first = fits.argmax(axis=1)[:, None]
        # If no try fits: all of the image, as far as its aspect is allowed.
        lowest, highest = self.crop_aspect
        some = fits.any(axis=1)
        widths = np.take_along_axis(crop_width, first, 1)[:, 0]
        heights = np.take_along_axis(crop_height, first, 1)[:, 0]
        part_x = np.where(some, widths, min(width, height * highest)) / width
        part_y = np.where(some, heights, min(height, width / lowest)) / height
        mirror = np.where(rng.random(num_views) < 0.5, -1, 1) if self.flip else 1

        theta_V23 = np.zeros((num_views, 2, 3), dtype=np.float32)
        theta_V23[:, 0, 0] = part_x * mirror
        theta_V23[:, 1, 1] = part_y
        theta_V23[:, 0, 2] = (1 - part_x) * rng.uniform(-1, 1, num_views)
        theta_V23[:, 1, 2] = (1 - part_y) * rng.uniform(-1, 1, num_views)
        return theta_V23

    def _jitter(self, rng: np.random.Generator, x_VCHW: Tensor) -> None:
        """Change brightness, contrast, saturation and hue in place, in an order drawn per step."""
        num_views, device = len(x_VCHW), x_VCHW.device
        is_changed_V = rng.random(num_views) < self.jitter_probability
        extent = 0.8 * self.strength
        draws_3V = rng.uniform(max(0.0, 1 - extent), 1 + extent, (3, num_views))
        factors_3V = np.where(is_changed_V, draws_3V, 1.0)
        turns_V = rng.uniform(-0.2, 0.2, num_views) * self.strength * is_changed_V
        changes: list[Change] = [
            (_change_brightness, _per_view(factors_3V[0], device)),
            (_change_contrast, _per_view(factors_3V[1], device)),
            (_change_saturation, _per_view(factors_3V[2], device)),
            (_turn_hue, _per_view(turns_V, device)),
        ]
        order = rng.permutation(len(changes))
        kinds = 4 if x_VCHW.shape[1] == 3 else 2  # the last two are of colour
        at_once = num_views
        if device.type == "cpu":
            at_once = max(1, PIXELS_AT_ONCE // x_VCHW[0, 0].numel())
        for begin in range(0, num_views, at_once):
            some = slice(begin, begin + at_once)
            for change, by_V111 in (changes[index] for index in order if index < kinds):
                change(x_VCHW[some], by_V111[some])

    def _blur(self, rng: np.random.Generator, x_VCHW: Tensor) -> None:
        """Blur some of the views in place."""
        num_views, device = len(x_VCHW), x_VCHW.device
        chosen = np.flatnonzero(rng.random(num_views) < self.blur_probability)
        sigma_V1 = rng.uniform(*self.blur_sigma, (num_views, 1))[chosen]
        radius = int(self.blur_side * min(x_VCHW.shape[2:])) // 2
        if not radius or not len(chosen):
            return
        weights_VK = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma_V1**2))
        weights_VK /= weights_VK.sum(axis=1, keepdims=True)
        taps = [_per_view(tap_V, device) for tap_V in weights_VK.T]
        rows = torch.from_numpy(chosen).to(device)
        x_VCHW[rows] = _convolve(_convolve(x_VCHW[rows], taps, dim=3), taps, dim=2)


# For images of 32 pixels a side, and others without fine structure: B.9 of the paper
SMALL = SimCLRViews(strength=0.5, blur_probability=0.0)
LARGE = SimCLRViews()
# For drawings and silhouettes of one channel, of which a small part says little
GREY = SimCLRViews(crop_area=(0.2, 1.0), strength=0.5, blur_probability=0.0)


def _sample(images_VCHW: Tensor, theta_V23: Tensor) -> Tensor:
    grid_VHW2 = functional.affine_grid(theta_V23, list(images_VCHW.shape), align_corners=False)
    return functional.grid_sample(
        images_VCHW, grid_VHW2, padding_mode="border", align_corners=False
    )


def _per_view(values_V: np.ndarray, device: torch.device) -> Tensor:
    """Figures of each view as (V, 1, 1, 1): booleans as they are, others as float32."""
    if values_V.dtype != bool:
        values_V = values_V.astype(np.float32)
    return torch.from_numpy(values_V).to(device)[:, None, None, None]


def _grey(x_V3HW: Tensor) -> Tensor:
    """The luminance (V, 1, H, W)."""
    red, green, blue = (x_V3HW[:, i : i + 1] for i in range(3))
    of_red, of_green, of_blue = GREY_WEIGHTS
    return (red * of_red).add_(green, alpha=of_green).add_(blue, alpha=of_blue)


def _change_brightness(x_VCHW: Tensor, factor_V111: Tensor) -> None:
    x_VCHW.mul_(factor_V111).clamp_(0, 1)


def _change_contrast(x_VCHW: Tensor, factor_V111: Tensor) -> None:
    """Blend with the mean of the view's luminance."""
    grey_V1HW = _grey(x_VCHW) if x_VCHW.shape[1] == 3 else x_VCHW
    mean_V111 = grey_V1HW.flatten(1).mean(dim=1)[:, None, None, None]
    x_VCHW.mul_(factor_V111).add_(mean_V111 * (1 - factor_V111)).clamp_(0, 1)


def _change_saturation(x_V3HW: Tensor, factor_V111: Tensor) -> None:
    """Blend with the luminance."""
    grey_V1HW = _grey(x_V3HW).mul_(1 - factor_V111)
    x_V3HW.mul_(factor_V111).add_(grey_V1HW).clamp_(0, 1)


def _turn_hue(x_V3HW: Tensor, turns_V111: Tensor) -> None:
    """Turn the hue of HSV, by a part of a turn.

    With v the largest channel, c the spread of the channels and h the hue in sixths of a turn, the
    channels are v - c clamp(2 - |(n + h) mod 6 - 2|, 0, 1), n being 5, 3, 1 for red, green, blue.
    """
    red, green, blue = x_V3HW.unbind(dim=1)
    value_VHW = torch.maximum(torch.maximum(red, green), blue)
    spread_VHW = value_VHW - torch.minimum(torch.minimum(red, green), blue)
    divisor_VHW = spread_VHW.clamp(min=LEAST_SPREAD)
    hue_VHW = torch.where(
        value_VHW == red,
        (green - blue) / divisor_VHW,
        torch.where(
            value_VHW == green,
            ((blue - red) / divisor_VHW).add_(2),
            ((red - green) / divisor_VHW).add_(4),
        ),
    )
    hue_VHW.add_(turns_V111[:, 0], alpha=6)
    for channel, n in enumerate((5, 3, 1)):
        sixths_VHW = hue_VHW + n
        sixths_VHW -= (sixths_VHW / 6).floor_().mul_(6)
        share_VHW = sixths_VHW.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
        torch.addcmul(value_VHW, spread_VHW, share_VHW, value=-1, out=x_V3HW[:, channel])


def _convolve(x_VCHW: Tensor, taps: list[Tensor], *, dim: int) -> Tensor:
    """Convolve along one side with each view's own taps (V, 1, 1, 1); the image is mirrored at its
    edges. Tap by tap: on equal inputs the sum is then the same, whatever the threads."""
    radius, side = len(taps) // 2, x_VCHW.shape[dim]
    margins = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
    padded_VCHW = functional.pad(x_VCHW, margins, mode="reflect")
    sum_VCHW = padded_VCHW.narrow(dim, 0, side) * taps[0]
    for index, tap_V111 in enumerate(taps[1:], start=1):
        sum_VCHW.addcmul_(padded_VCHW.narrow(dim, index, side), tap_V111)
    return sum_VCHW
