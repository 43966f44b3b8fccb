"""Views by name, and what is said of a user's own."""

import pytest
import torch

from models.plugins import UsersError
from models.simclr_views import GREY, LARGE, SMALL
from models.view_names import blamed, check_users_views, choose_views, views_remarks
from models.views import DIGITS, GENERIC, two_views

BATCH = (3, 1, 4, 5)

MODULE = """
import torch
from models.simclr_views import SimCLRViews

def light():
    return SimCLRViews(strength=0.1)

def mirrored():
    return lambda images, *, seed, step: torch.cat([images, images.flip(3)])

def number():
    return 3
"""


def test_auto_is_what_the_data_come_with():
    assert choose_views("auto", DIGITS, (1, 16, 16)) is DIGITS


def test_kind_that_the_data_come_with_stays_as_it_is():
    assert choose_views("simclr", GREY, (1, 28, 28)) is GREY
    assert choose_views("affine", DIGITS, (1, 16, 16)) is DIGITS


def test_other_kind_is_that_for_images_of_their_size():
    assert choose_views("affine", SMALL, (3, 32, 32)) is GENERIC
    assert choose_views("simclr", GENERIC, (3, 32, 32)) is SMALL
    for side, usual in ((63, SMALL), (64, LARGE), (96, LARGE)):
        assert choose_views("simclr", GENERIC, (3, side, side)) is usual
    assert (SMALL.strength, SMALL.blur_probability) == (LARGE.strength / 2, 0)  # SimCLR, B.9
    assert LARGE.blur_probability == 0.5


def test_factory_of_ones_own_makes_views(tmp_path, monkeypatch):
    (tmp_path / "own_views.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert choose_views("own_views:light", GENERIC, (3, 8, 8)).strength == 0.1
    views = choose_views("own_views:mirrored", GENERIC, (3, 8, 8))
    check_users_views(views, "own_views:mirrored", BATCH)
    with pytest.raises(ValueError, match=r"views 'own_views:number' made a int; make models.views"):
        choose_views("own_views:number", GENERIC, (3, 8, 8))
    with pytest.raises(ValueError, match=r"no views named 'simclrr' .did you mean 'simclr'"):
        choose_views("simclrr", GENERIC, (3, 8, 8))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda x, *, seed, step: None, "return a NoneType; return a tensor (6, 1, 4, 5)"),
        (lambda x, *, seed, step: x, "make (3, 1, 4, 5) float32 of images of shape (3, 1, 4, 5)"),
        (lambda x, *, seed, step: torch.cat([x, x]).double(), "make (6, 1, 4, 5) float64"),
        (lambda x, *, seed, step: torch.cat([x, x / 0]), "are not finite"),
        (
            lambda x, *, seed, step: torch.cat([x, x + torch.rand(1)]),
            "differ when they are drawn again for the same seed and step",
        ),
    ],
)
def test_views_that_cannot_be_trained_on_are_refused(draw, message):
    with pytest.raises(ValueError, match="views 'my:own'") as refusal:
        check_users_views(draw, "my:own", BATCH)
    assert message in str(refusal.value)


def test_views_that_do_not_change_from_step_to_step_are_told():
    """Who seeds a generator by the seed alone has no augmentation, and no figure that says so."""

    def still(images, *, seed, step):
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
        return torch.cat([images, images + noise])

    def moving(images, *, seed, step):
        return still(images, seed=seed + step, step=0)

    (told,) = views_remarks(still, "my:own", BATCH)
    assert told.startswith("views 'my:own' are the same in each step; unless that is meant, draw")
    assert views_remarks(moving, "my:own", BATCH) == []
    assert views_remarks(DIGITS, "auto", BATCH) == []


def test_what_views_raise_is_blamed_on_them():
    for name, who in (("my:own", "views 'my:own'"), ("auto", "the data set's views")):
        with pytest.raises(UsersError, match=rf"{who} raised TypeError on images of shape \(3, 1"):
            check_users_views(lambda images: images, name, BATCH)


def test_ours_are_drawn_without_detour():
    for views in (GENERIC, SMALL):
        assert blamed(views, "auto") is views
    images = torch.rand(BATCH)
    assert torch.equal(GENERIC(images, seed=3, step=4), two_views(images, GENERIC, seed=3, step=4))
