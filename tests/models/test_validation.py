"""A share of the training images that is held out: stratified, and the same for every run."""

import numpy as np
import pytest
import torch

from models.data import load_data
from models.validation import split_off, stratified_order

LABELS = torch.tensor([0] * 50 + [1] * 30 + [-1] * 40 + [2] * 20)


@pytest.mark.parametrize(("share", "counts"), [(0.1, [5, 3, 2]), (0.5, [25, 15, 10])])
def test_each_class_gives_its_share_and_the_unlabelled_stay(share, counts):
    left, held_out = split_off(LABELS, share)
    assert LABELS[held_out].bincount().tolist() == counts
    assert (LABELS[left] < 0).sum() == 40
    both = torch.cat([left, held_out])
    assert torch.equal(both.sort().values, torch.arange(len(LABELS)))


def test_held_out_images_are_drawn_and_not_the_last_ones():
    _, held_out = split_off(LABELS, 0.1)
    assert held_out[:5].tolist() != list(range(45, 50))
    assert torch.equal(held_out, split_off(LABELS, 0.1)[1])


def test_larger_share_holds_out_what_a_smaller_one_does():
    small, large = (set(split_off(LABELS, share)[1].tolist()) for share in (0.1, 0.3))
    assert small < large


def test_images_in_stratified_order_are_held_out_without_a_copy():
    order = stratified_order(LABELS.numpy())
    left, held_out = split_off(LABELS[order], 0.1, is_stratified=True)
    assert (left, held_out) == (slice(0, 130), slice(130, None))
    _, drawn = split_off(LABELS, 0.1)
    assert sorted(order[held_out]) == drawn.tolist()
    assert np.array_equal(order[:40], np.flatnonzero(LABELS.numpy() < 0))


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_share_that_leaves_one_side_empty_is_refused(share):
    with pytest.raises(ValueError, match=f"validation {share} of 100 labelled training images"):
        split_off(LABELS, share)


def test_test_images_are_not_in_the_data():
    data, full = load_data("digits", seed=0, validation=0.1), load_data("digits", seed=0)
    tested = {image.numpy().tobytes() for image in full.test_images}
    loaded = {image.numpy().tobytes() for image in (*data.train_images, *data.test_images)}
    assert len(loaded & tested) == 0
    assert len(data.train_images) + len(data.test_images) == len(full.train_images)
    assert len(data.test_images) == 144
    again = load_data("digits", seed=7, validation=0.1)
    assert torch.equal(again.test_images, data.test_images)
