"""What no evaluation can be made with is refused, with a remedy."""

import pytest

from models.evaluation.protocol import EvaluationProtocol


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"k": 0}, "k 0 is not allowed; give at least 1"),
        ({"epochs": 0}, "epochs 0 is not allowed; give at least 1"),
        ({"temperature": 0.0}, "temperature 0.0 is not allowed; give a figure above 0"),
        ({"temperature": float("inf")}, "temperature inf is not allowed"),
        ({"temperature": float("nan")}, "temperature nan is not allowed"),
    ],
)
def test_figure_that_can_not_be_is_refused(figures, told):
    with pytest.raises(ValueError, match=told):
        EvaluationProtocol(**figures)
