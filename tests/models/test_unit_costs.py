"""What units cost for one image."""

import pytest
from torch import nn

from models.mlp import mlp
from models.network import from_sequential
from models.numerics import Numerics
from models.resnet import resnet, small_resnet
from models.unit_costs import count_unit_costs


def test_flops_are_per_image():
    costs = count_unit_costs(mlp(6, width=4, depth=2), (1, 2, 3))
    assert [cost.flops for cost in costs] == [2 * 6 * 4, 2 * 4 * 4]


def test_flops_of_a_convolution_are_those_of_its_positions():
    assert count_unit_costs(small_resnet(width=4), (1, 16, 16))[0].flops == 2 * 16 * 16 * 9 * 4


@pytest.mark.parametrize(
    ("depth", "giga_flops"),
    [(18, 1.814), (34, 3.664), (50, 4.089)],  # torchvision's figures, multiply-adds
)
def test_flops_are_the_published_ones(depth, giga_flops):
    costs = count_unit_costs(resnet(depth, stem="imagenet"), (3, 224, 224))
    assert sum(cost.flops for cost in costs) / 2e9 == pytest.approx(giga_flops, abs=0.004)


def test_activation_that_lives_until_the_backward_counts_once():
    """The convolution's output and the ReLU's, which takes BatchNorm's place; not the input."""
    stem, *_ = count_unit_costs(small_resnet(width=4), (1, 16, 16))
    of_two_images = 2 * 4  # BatchNorm's mean and deviation of each channel
    assert stem.kept_bytes == 2 * 4 * (4 * 16 * 16) + 4 * of_two_images // 2
    assert stem.weight_bytes == 4 * (4 * 9 + 4 * 4) + 8  # with BatchNorm's count of batches


def test_unit_that_works_in_place_holds_nothing_of_its_own():
    def build():
        return nn.Sequential(
            nn.Identity(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6, 4), nn.Dropout(0.5)
        )

    costs = count_unit_costs(from_sequential("mine", build, seed=0), (1, 2, 3))
    assert [cost.kept_bytes for cost in costs[:4]] == [0, 0, 0, 4 * 4]
    assert costs[4].kept_bytes > 4 * 4  # its mask too


def test_bf16_halves_what_convolutions_leave():
    network, shape = small_resnet(width=4), (1, 16, 16)
    single, half = (
        count_unit_costs(network, shape, Numerics(precision=precision))[1]
        for precision in ("fp32", "bf16")
    )
    assert half.flops == single.flops
    assert half.weight_bytes == single.weight_bytes
    assert half.kept_bytes < 0.75 * single.kept_bytes
