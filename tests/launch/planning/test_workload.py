"""What costs and memory follow from, before a run is cut: samples, windows, heads.

With it goes the setting that a resolved run makes of itself (launch/planning/resolved.py).
"""

import pytest

from models.heads import DEFAULT_HEAD_FEATURES
from runtime.core.partition import Block

from ..runs import light, resolved


def test_sample_is_a_view_of_an_image():
    assert light(batch_size=7).setting.num_samples == 14


def test_window_is_the_resolved_one():
    assert light(lag=3).setting.window == 4
    assert light(window=5).setting.window == 5


def test_head_is_as_wide_as_the_objective_wants():
    by_default, by_labels = light().setting, light(objective="cross-entropy").setting
    assert by_default.head_features == DEFAULT_HEAD_FEATURES
    assert by_labels.head_features == by_labels.num_classes == 10


@pytest.mark.parametrize(
    ("home", "guest", "top"), [(range(2), range(2, 3), 2), (range(1, 4), range(4, 4), 3)]
)
def test_head_of_a_block_stands_on_its_last_unit(home, guest, top):
    setting = resolved(workers=2, decoder_depth=(0, 2)).setting
    block = Block(index=1, home=home, guest=guest)
    assert setting.head_of(block) == setting.head(top, 1)
    assert setting.head_of(block) not in (setting.head(top - 1, 1), setting.head(top, 0))


def test_resolved_run_and_its_setting_share_one_trace():
    run = light()
    assert run.setting is run.setting
    assert run.setting.traces is run.traces
    assert [trace.output_shape for trace in run.traces] == [(64,)] * 4
    assert len(run.setting.loads) == len(run.network.units) == 4
