"""The sequential reference as a program; that it learns the pipeline's bits is test_pipeline's."""

from launch import sequential


def test_interrupt_before_the_first_step_ends_it_with_130(capsys, monkeypatch):
    """Its traceback was all that was seen of a run that was still loading its data."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sequential, "resolve", interrupted)
    assert sequential.main([]) == 130
    assert capsys.readouterr().err == "sequential: stopped by SIGINT\n"
