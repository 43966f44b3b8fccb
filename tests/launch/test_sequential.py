"""The sequential reference as a program; that it learns the pipeline's bits is test_pipeline's."""

import os

from launch import sequential

from ..models.datasets import layouts


def test_what_is_odd_about_the_data_is_told(tmp_path, capsys):
    """The baseline trained on other images than the published ones, and said nothing."""
    layouts.write_cifar10(tmp_path, per_file=8)
    flags = "--method e2e --model resnet18-cifar-w8 --batch-size 4 --steps 1 --validation 0.2"
    places = ["--data", f"cifar10:{tmp_path}", "--run-dir", str(tmp_path / "run")]
    assert sequential.main([*flags.split(), *places]) == 0
    printed = capsys.readouterr().out
    assert "note: validation 0.2: what is called test here are training images" in printed
    assert f"note: 5 of 5 files in {tmp_path}/cifar-10-batches-bin are not those" in printed


def test_interrupt_before_the_first_step_ends_it_with_130(capsys, monkeypatch):
    """Its traceback was all that was seen of a run that was still loading its data."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sequential, "resolve", interrupted)
    assert sequential.main([]) == 130
    assert capsys.readouterr().err == "sequential: stopped by SIGINT\n"


def test_nothing_stays_open_behind_a_run(tmp_path):
    """Each run in a process, as of a notebook or a test, left five files a block open."""
    before = len(os.listdir("/proc/self/fd"))
    flags = "--model mlp --workers 2 --steps 1 --batch-size 8 --decoder-depth 0 --quick-end"
    assert sequential.main([*flags.split(), "--run-dir", str(tmp_path / "run")]) == 0
    assert len(os.listdir("/proc/self/fd")) == before
