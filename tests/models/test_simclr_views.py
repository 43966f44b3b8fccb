"""SimCLR's views: pure functions of (seed, step), drawn as often and as far as they say."""

import colorsys

import pytest
import torch

from models import simclr_views
from models.simclr_views import GREY, LARGE, SMALL, SimCLRViews

NOTHING = {
    "crop_area": (1.0, 1.0),
    "crop_aspect": (1.0, 1.0),
    "flip": False,
    "jitter_probability": 0.0,
    "grey_probability": 0.0,
    "blur_probability": 0.0,
}


def only(**some: object) -> SimCLRViews:
    return SimCLRViews(**NOTHING | some)


def draw(views: SimCLRViews, images: torch.Tensor, *, seed: int = 0, step: int = 0):
    return views(images, seed=seed, step=step)


@pytest.fixture
def images():
    return torch.rand(6, 3, 24, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("views", [SMALL, LARGE, GREY])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_views_are_a_pure_function_of_seed_and_step(images, views, channels):
    images = torch.cat([images, images], dim=1)[:, :channels].contiguous()
    before = images.clone()
    drawn = draw(views, images, step=5)
    assert drawn.shape == (12, channels, 24, 20)
    assert drawn.dtype == torch.float32
    assert drawn.is_contiguous()
    assert 0 <= drawn.min() < drawn.max() <= 1
    assert torch.equal(images, before)
    draw(views, images, step=6)
    assert torch.equal(draw(views, images, step=5), drawn)
    assert not torch.equal(draw(views, images, step=6), drawn)
    assert not torch.equal(draw(views, images, seed=1, step=5), drawn)


@pytest.mark.parametrize("threads", [1, 3])
def test_number_of_threads_changes_no_bit(threads):
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    expected = draw(LARGE, images)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(draw(LARGE, images), expected)
    finally:
        torch.set_num_threads(before)


def test_views_changed_at_once_change_no_bit(images, monkeypatch):
    expected = draw(LARGE, images)
    monkeypatch.setattr(simclr_views, "PIXELS_AT_ONCE", 1000)  # two views
    assert torch.equal(draw(LARGE, images), expected)


@pytest.mark.parametrize("views", [SMALL, LARGE])
def test_no_two_views_are_alike(images, views):
    drawn = draw(views, images[:1].repeat(6, 1, 1, 1))
    assert torch.cdist(drawn.flatten(1), drawn.flatten(1)).fill_diagonal_(9).min() > 0.1


def test_views_of_nothing_are_the_image(images):
    images = images[..., :20, :]
    torch.testing.assert_close(draw(only(), images), torch.cat([images, images]))


def test_flip_mirrors_about_half_of_the_views():
    images = torch.rand(100, 1, 4, 4)
    drawn, both = draw(only(flip=True), images), torch.cat([images, images])
    mirrored = (drawn - both.flip(3)).flatten(1).abs().amax(dim=1) < 1e-5
    unchanged = (drawn - both).flatten(1).abs().amax(dim=1) < 1e-5
    assert torch.equal(mirrored, ~unchanged)
    assert 75 < mirrored.sum() < 125


def crops(views: SimCLRViews, *, height: int = 64, width: int = 64) -> torch.Tensor:
    """Left, right, top and bottom of each view's crop, from images that hold coordinates."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    drawn = draw(views, torch.stack([x, y])[None].repeat(300, 1, 1, 1))
    # The outermost pixels' centres are half a pixel of the view within the crop.
    step_x = (drawn[:, 0, 0, -2] - drawn[:, 0, 0, 1]) / (width - 3)
    step_y = (drawn[:, 1, -2, 0] - drawn[:, 1, 1, 0]) / (height - 3)
    left, right = drawn[:, 0, 0, 1] - 1.5 * step_x, drawn[:, 0, 0, -2] + 1.5 * step_x
    top, bottom = drawn[:, 1, 1, 0] - 1.5 * step_y, drawn[:, 1, -2, 0] + 1.5 * step_y
    return torch.stack([left, right, top, bottom], dim=1)


def test_crops_have_the_areas_and_aspects_they_may_and_lie_anywhere_within():
    left, right, top, bottom = crops(only(crop_area=(0.08, 1.0), crop_aspect=(3 / 4, 4 / 3))).T
    area, aspect = (right - left) * (bottom - top), (right - left) / (bottom - top)
    assert 0.07 < area.min() < 0.11
    assert 0.9 < area.max() <= 1.01
    assert 0.45 < area.mean() < 0.57  # large crops of an odd aspect don't fit
    assert 0.74 < aspect.min() < 0.77
    assert 1.30 < aspect.max() < 1.35
    assert -0.01 < left.min() < 0.01
    assert 0.99 < right.max() < 1.01
    small = area < 0.2
    assert left[small].std() > 0.15
    assert top[small].std() > 0.15


def test_crop_that_cannot_fit_takes_as_much_as_its_aspect_allows():
    left, right, top, bottom = crops(only(crop_area=(0.9, 0.9)), height=32, width=128).T
    assert torch.allclose(right - left, torch.tensor(0.25), atol=0.01)
    assert torch.allclose(bottom - top, torch.tensor(1.0), atol=0.01)
    assert left.std() > 0.1


def test_jitter_and_grey_come_as_often_as_they_should():
    images = torch.rand(500, 3, 2, 2)
    both = torch.cat([images, images])
    changed = (draw(only(jitter_probability=0.8), images) - both).abs().flatten(1).amax(1) > 1e-5
    assert 0.76 < changed.float().mean() < 0.84
    drawn = draw(only(grey_probability=0.2), images)
    is_grey = (drawn.amax(dim=1) - drawn.amin(dim=1)).flatten(1).amax(dim=1) < 1e-6
    assert 0.16 < is_grey.float().mean() < 0.24
    luminance = (both * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)[is_grey]
    torch.testing.assert_close(drawn[is_grey][:, 0], luminance)
    torch.testing.assert_close(drawn[~is_grey], both[~is_grey])


def test_brightness_goes_as_far_as_the_strength():
    images = torch.full((300, 1, 2, 2), 0.3)  # of one tone, so that contrast changes nothing
    factors = draw(only(jitter_probability=1.0, strength=0.5), images)[:, 0, 0, 0] / 0.3
    assert 0.6 <= factors.min() < 0.62
    assert 1.38 < factors.max() <= 1.4001


def test_order_of_the_jitter_is_drawn_for_each_step(images, monkeypatch):
    changes = ("_change_brightness", "_change_contrast", "_change_saturation", "_turn_hue")
    made: list[str] = []
    for name in changes:
        monkeypatch.setattr(simclr_views, name, lambda *_, name=name: made.append(name))
    orders = set()
    for step in range(20):
        made.clear()
        draw(only(jitter_probability=1.0), images, step=step)
        assert sorted(made) == sorted(changes)  # the images are few enough to be changed at once
        orders.add(tuple(made))
    assert len(orders) > 5


def test_hue_is_turned_as_colorsys_does():
    pixels = torch.rand(50, 3, 1, 1)
    pixels[:3] = torch.tensor([[0.5, 0.5, 0.5], [1, 0, 0], [0, 0, 0]])[:, :, None, None]
    for turns in (-0.4, 0.0, 0.15, 0.5):
        turned = pixels.clone()
        simclr_views._turn_hue(turned, torch.full((50, 1, 1, 1), turns))
        for before, after in zip(pixels.flatten(1), turned.flatten(1), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
            expected = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
            assert after.tolist() == pytest.approx(expected, abs=1e-5)


def test_one_channel_changes_in_tone_alone():
    images = torch.rand(20, 1, 8, 8)
    drawn = draw(only(jitter_probability=1.0, grey_probability=1.0), images)
    assert drawn.shape == (40, 1, 8, 8)
    assert (drawn - torch.cat([images, images])).abs().amax() > 0.1


def test_blur_spreads_a_point_as_a_gaussian():
    images = torch.zeros(200, 1, 40, 40)
    images[:, 0, 20, 20] = 1
    drawn = draw(only(blur_probability=0.5), images)[:, 0]
    is_blurred = drawn[:, 20, 20] < 0.999
    assert 0.4 < is_blurred.float().mean() < 0.6  # the smallest sigmas blur nothing
    torch.testing.assert_close(drawn.sum(dim=(1, 2)), torch.ones(400))
    centre, beside, below = (drawn[:, 20, 20], drawn[:, 20, 21], drawn[:, 21, 20])
    assert torch.equal(beside, below)
    sigma = (2 * (centre / beside)[is_blurred].log()).rsqrt()
    assert 1.8 < sigma.max() < 2.01
    assert sigma.std() > 0.3
    assert (drawn[:, 20, 23:] == 0).all()  # a tenth of 40 pixels: two on each side


def test_blur_of_a_plane_changes_nothing_at_its_edges():
    images = torch.full((20, 3, 30, 30), 0.7)
    drawn = draw(only(blur_probability=1.0), images)
    torch.testing.assert_close(drawn, torch.full((40, 3, 30, 30), 0.7))


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.5, 1.5)},
        {"crop_aspect": (2.0, 1.0)},
        {"blur_sigma": (-1.0, 1.0)},
        {"grey_probability": 1.5},
        {"strength": -1.0},
    ],
)
def test_impossible_figures_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SimCLRViews(**wrong)
