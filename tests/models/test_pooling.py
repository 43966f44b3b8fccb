"""From a unit's output to features."""

import pytest
import torch

from models.pooling import num_features, pool


@pytest.mark.parametrize("shape", [(3,), (7, 3), (3, 4, 5)])
def test_output_has_as_many_features_as_are_pooled_of_it(shape):
    assert pool(torch.rand(2, *shape)).shape == (2, num_features(shape)) == (2, 3)


def test_positions_are_averaged_and_features_left_alone():
    x_NCHW, x_NLD, x_NF = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 3), torch.rand(2, 3)
    assert torch.allclose(pool(x_NCHW), x_NCHW.mean(dim=(2, 3)))
    assert torch.allclose(pool(x_NLD), x_NLD.mean(dim=1))
    assert pool(x_NF) is x_NF


@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5)])
def test_shapes_that_can_not_be_pooled_are_refused(shape):
    with pytest.raises(ValueError, match="sequence or"):
        num_features(shape)
