"""Real runs whose edges round: whatever dies, the bits are those of one loop that rounds alike."""

import json
import signal

import pytest

from .conftest import SMALL, assert_nothing_is_left, reference_digests

QUICK = (*SMALL, "--quick-end", "--report-every-s", "0.1", "--hang-timeout-s", "1.5")
FAULTS = ("kill:1@8", "drop:0-1@12", "corrupt:2-1@15", "nan:2@18", "kill:2@22", "kill:1@22")
STEEP = """
from models.objectives import NTXent

def steep(temperature, num_classes):
    loss = NTXent(temperature)

    class Steep:
        uses_labels = False
        head_features = None

        def __call__(self, projections_2BD, labels_B):
            return 2e5 * loss(projections_2BD, labels_B)

    return Steep()
"""
LOUD = """
from torch import nn

class Loud(nn.Module):
    def forward(self, x):
        return 1e6 * x

def build():
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(256, 16), Loud()), nn.Linear(16, 8))
"""


def digests(run) -> dict[str, str]:
    return {key: run.summary[key] for key in ("weights_sha256", "state_sha256")}


@pytest.mark.parametrize("tie", ["gradient", "elastic"])
def test_what_is_made_or_sent_again_is_rounded_to_the_same_bits(start, tie):
    wire = ("--wire-precision", "exact,bf16,fp16", "--wire-ties", "--tie", tie)
    flags = (*QUICK, *wire, "--workers", "4", "--steps", "36", "--checksum", "payload")
    plan = ("--faults", ",".join(FAULTS), "--max-worker-restarts", "9")
    run = start(*flags, *plan)
    code, out, err = run.end()
    assert code == 0, out + err
    fired = (run.dir / "faults.jsonl").read_text().splitlines()
    assert {json.loads(line)["fault"] for line in fired} == set(FAULTS)
    assert digests(run) == reference_digests(*flags, *plan)
    assert digests(run) != reference_digests(*flags[: len(QUICK)], *flags[len(QUICK) + 3 :], *plan)
    assert run.summary["batches"]["replayed"] > 0
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_run_that_rounds_is_stopped_resumed_refused_and_recut(start):
    """Its checkpoint holds late ties as they cross."""
    flags = (*QUICK, "--tie", "gradient", "--lag", "2", "--steps", "150")
    wire = ("--wire-precision", "bf16", "--wire-ties")
    run = start(*flags, *wire, "--workers", "2")
    run.await_step(1, 5)
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.end(timeout_s=30)
    assert code == 128 + signal.SIGINT, err
    assert_nothing_is_left(run)
    recorded = (run.dir / "config.toml").read_text()
    assert '"bf16"' in recorded
    assert "wire-ties = true" in recorded

    other = start(*flags, "--wire-precision", "bf16", "--workers", "2", run_dir=run.dir)
    code, _, err = other.end()
    assert code == 2
    assert "other settings (wire-ties True -> False)" in err
    code, out, err = start(*flags, *wire, "--workers", "2", run_dir=run.dir).end()
    assert code == 0, out + err
    assert "resumes from step" in err
    assert digests(run) == reference_digests(*flags, *wire, "--workers", "2")

    longer = (*flags[:-1], "170", *wire, "--workers", "3")
    code, out, err = start(*longer, run_dir=run.dir).end()
    assert code == 0, out + err
    assert "another cut (workers 2 -> 3" in err


def test_gradients_that_overflow_are_left_out_by_processes_as_by_one_loop(
    start, tmp_path, monkeypatch
):
    (tmp_path / "steep.py").write_text(STEEP)
    monkeypatch.chdir(tmp_path)
    flags = (*QUICK, "--tie", "gradient", "--workers", "3", "--steps", "40")
    own = ("--objective", "steep.py:steep", "--max-bad-steps", "99")
    wire = ("--wire-precision", "fp16", "--wire-ties")
    run = start(*flags, *own, *wire, "--faults", "kill:1@20")
    code, out, err = run.end()
    assert code == 0, out + err
    assert 0 < run.summary["batches"]["bad"] < run.summary["batches"]["trained"] == 120
    assert "or its ties, was left out: numbers were not finite" in out
    assert digests(run) == reference_digests(*flags, *own, *wire)


def test_activations_that_overflow_end_the_run_with_the_remedy(start, tmp_path):
    (tmp_path / "loud.py").write_text(LOUD)
    own = ("--model", "loud.py:build", "--cuts", "0,2", "--overlap", "0", "--steps", "30")
    flags = (*own, *QUICK[2:])
    run = start(*flags, "--wire-precision", "fp16")
    code, _, err = run.end()
    assert code == 1
    assert "10 steps in a row, up to step 9" in err
    assert "numbers above 65504 are infinite on an edge in fp16" in err
    assert "where --wire-precision bf16 has room" in err
    assert "Traceback" not in err
    run = start(*flags, "--wire-precision", "bf16")
    code, out, err = run.end()
    assert code == 0, out + err
    assert run.summary["batches"]["bad"] == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--wire-precision bf16,bf16", "has 2 entries for 3 edges"),
        ("--wire-precision fp8", "wire-precision fp8 is not allowed; give exact, fp16 or bf16"),
        ("--wire-ties", "give --wire-precision bf16, or leave --wire-ties out"),
        ("--wire-ties --wire-precision bf16 --overlap 0", "wire-ties rounds nothing"),
    ],
)
def test_bad_input_ends_with_2_before_any_worker(start, flags, said):
    run = start(*SMALL, "--workers", "4", *flags.split())
    code, out, err = run.end()
    assert code == 2
    (line,) = [line for line in err.splitlines() if "error" in line]
    assert said in line
    assert "worker" not in out
    assert not (run.dir / "logs").exists()
