"""Two views of each image: a pure function of (images, ranges, seed, step)."""

import pytest
import torch

from models.views import DIGITS, GENERIC, ViewRanges, two_views


@pytest.fixture
def images():
    return torch.rand(6, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ranges", [DIGITS, GENERIC])
def test_views_are_a_pure_function_of_seed_and_step(images, ranges):
    before = images.clone()
    views = two_views(images, ranges, seed=0, step=5)
    assert views.shape == (12, 3, 12, 10)
    assert views.dtype == torch.float32
    assert views.is_contiguous()
    assert torch.equal(images, before)
    two_views(images, ranges, seed=0, step=6)
    assert torch.equal(two_views(images, ranges, seed=0, step=5), views)
    assert not torch.equal(two_views(images, ranges, seed=0, step=6), views)
    assert not torch.equal(two_views(images, ranges, seed=1, step=5), views)


@pytest.mark.parametrize("ranges", [DIGITS, GENERIC])
def test_no_two_views_are_alike(images, ranges):
    views = two_views(images[:1].repeat(6, 1, 1, 1), ranges, seed=0, step=0)
    assert torch.cdist(views.flatten(1), views.flatten(1)).fill_diagonal_(9).min() > 0.1


def test_views_without_ranges_are_the_image(images):
    views = two_views(images, ViewRanges(), seed=0, step=0)
    torch.testing.assert_close(views, torch.cat([images, images]))


def test_second_views_follow_all_first_ones(images):
    views = two_views(images, ViewRanges(brightness=0.01), seed=0, step=0)
    offsets = views - torch.cat([images, images])
    assert offsets.abs().max() <= 0.0101
    assert offsets.mean(dim=(1, 2, 3)).unique().numel() == 12


@pytest.mark.parametrize(
    ("ranges", "changes_shape"),
    [
        (ViewRanges(rotation_deg=30), True),
        (ViewRanges(translate=0.2), True),
        (ViewRanges(scale=(0.5, 0.6)), True),
        (ViewRanges(shear_deg=30), True),
        (ViewRanges(brightness=0.5), False),
        (ViewRanges(contrast=0.5), False),
        (ViewRanges(colour=0.5), False),
    ],
)
def test_each_range_does_its_own_part(ranges, changes_shape):
    square = torch.zeros(4, 1, 16, 16)
    square[:, :, 4:12, 4:12] = 1
    views = two_views(square, ranges, seed=0, step=0)
    assert not torch.allclose(views, torch.cat([square, square]), atol=1e-3)
    levels = max(view.round(decimals=4).unique().numel() for view in views)
    assert (levels > 2) == changes_shape


def test_scale_above_one_magnifies():
    square = torch.zeros(2, 1, 16, 16)
    square[:, :, 6:10, 6:10] = 1
    views = two_views(square, ViewRanges(scale=(2.0, 2.0)), seed=0, step=0)
    assert views.sum(dim=(1, 2, 3)).allclose(torch.tensor(64.0), rtol=0.05)


def test_rotation_preserves_the_area():
    square = torch.zeros(4, 1, 32, 32)
    square[:, :, 12:20, 12:20] = 1
    views = two_views(square, ViewRanges(rotation_deg=45), seed=0, step=0)
    assert views.sum(dim=(1, 2, 3)).allclose(torch.tensor(64.0), rtol=0.02)


def test_flip_mirrors_about_half_of_the_views():
    images = torch.rand(50, 1, 4, 4)
    views = two_views(images, ViewRanges(flip=True), seed=0, step=0)
    both = torch.cat([images, images])
    mirrored = (views - both.flip(3)).flatten(1).abs().amax(dim=1) < 1e-5
    unchanged = (views - both).flatten(1).abs().amax(dim=1) < 1e-5
    assert torch.equal(mirrored, ~unchanged)
    assert 30 < mirrored.sum() < 70


def test_noise_has_its_deviation():
    views = two_views(torch.zeros(8, 1, 16, 16), ViewRanges(noise_std=0.2), seed=0, step=0)
    assert views.std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"noise_std": -1.0}, {"scale": (0.0, 1.0)}, {"scale": (2.0, 1.0)}, {"shear_deg": 90.0}],
)
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ViewRanges(**wrong)
