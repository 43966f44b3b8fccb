"""Views by name, a user's own among them, and the check that these can be trained on.

Owns the names. How views are drawn is in models.views and models.simclr_views.
"""

import torch
from torch import Tensor

from models.plugins import call_function, is_dotted, unknown_name, users_code
from models.simclr_views import LARGE, SMALL, SimCLRViews
from models.views import GENERIC, ViewRanges, Views

NAMES = ("auto", "simclr", "affine")
SMALL_SIDE = 64  # pixels; below it SimCLR has less jitter and no blur
OURS = (ViewRanges, SimCLRViews)


def choose_views(name: str, own: Views, image_shape: tuple[int, int, int]) -> Views:
    """The views of a name; `own` are those that the data set comes with.

    "auto": its own. "simclr" and "affine": its own if they are of this kind, else those for images
    (C, H, W) like these. package.module:factory: called with no argument. Raises ValueError for
    anything else.
    """
    if name == "auto":
        return own
    if name == "simclr":
        usual = SMALL if min(image_shape[1:]) < SMALL_SIDE else LARGE
        return own if isinstance(own, SimCLRViews) else usual
    if name == "affine":
        return own if isinstance(own, ViewRanges) else GENERIC
    if not is_dotted(name):
        raise unknown_name(name, "views", NAMES)
    views = call_function(name, "views")
    if not callable(views):
        raise ValueError(
            f"views {name!r} made a {type(views).__name__}; make models.views.ViewRanges, or a"
            " function that is called as views(images, seed=..., step=...)"
        )
    return views


def blamed(views: Views, name: str) -> Views:
    """The same views; if they are a user's own, what they raise becomes a UsersError."""
    if isinstance(views, OURS):
        return views

    def draw(images_BCHW: Tensor, *, seed: int, step: int) -> Tensor:
        with users_code(_who(name), f" on images of shape {tuple(images_BCHW.shape)}"):
            return views(images_BCHW, seed=seed, step=step)

    return draw


def check_users_views(views: Views, name: str, batch_shape: tuple[int, int, int, int]) -> None:
    """Draw a user's views of random images (B, C, H, W) twice, as two processes would.

    Raises UsersError if they raise, and ValueError unless both times they are (2B, C, H, W) float32
    of the same bits. Ours need no check.
    """
    if isinstance(views, OURS):
        return
    who, draw = _who(name), blamed(views, name)
    images_BCHW = torch.rand(batch_shape)
    drawn: object = draw(images_BCHW.clone(), seed=0, step=0)
    redrawn: object = draw(images_BCHW.clone(), seed=0, step=0)
    expected = (2 * batch_shape[0], *batch_shape[1:])
    if not isinstance(drawn, Tensor):
        raise ValueError(f"{who} return a {type(drawn).__name__}; return a tensor {expected}")
    if tuple(drawn.shape) != expected or drawn.dtype != torch.float32:
        raise ValueError(
            f"{who} make {tuple(drawn.shape)} {str(drawn.dtype).removeprefix('torch.')} of images"
            f" of shape {batch_shape}; make two views of each, {expected} float32: all first"
            " views, then all second ones"
        )
    if not drawn.isfinite().all():
        raise ValueError(f"{who} are not finite (NaN or infinity) for images in [0, 1]; mend them")
    if not isinstance(redrawn, Tensor) or not torch.equal(drawn, redrawn):
        raise ValueError(
            f"{who} differ when they are drawn again for the same seed and step; draw them from"
            " models.randomness.generator(seed, 'views', step=step), so that a restarted worker"
            " repeats them"
        )


def views_remarks(views: Views, name: str, batch_shape: tuple[int, int, int, int]) -> list[str]:
    """What is odd about views of a user's that are good: each step may draw what the one before
    did."""
    if isinstance(views, OURS):
        return []
    draw, images_BCHW = blamed(views, name), torch.rand(batch_shape)
    first, second = (draw(images_BCHW.clone(), seed=0, step=step) for step in (0, 1))
    if not torch.equal(first, second):
        return []
    return [
        f"{_who(name)} are the same in each step; unless that is meant, draw them from"
        " models.randomness.generator(seed, 'views', step=step)"
    ]


def _who(name: str) -> str:
    return "the data set's views" if name in NAMES else f"views {name!r}"
