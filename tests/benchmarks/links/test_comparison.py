"""The figures of the links' comparison: rates, latencies, and shares of what the parts can do."""

import pytest

from benchmarks.links import comparison
from benchmarks.links.cases import OURS, RAW, Case
from benchmarks.links.comparison import (
    BASELINES,
    KIB,
    MAC,
    MEMCPY,
    MIB,
    SIGNED,
    draw,
    measure_size,
    of_signing,
    show,
    size_label,
)

SYSTEMS = (MEMCPY, MAC, *OURS, *RAW)


def record(system: str, size: int, *gb_per_s: float, us: float = 20.0) -> dict:
    latency_us = [] if system in (MEMCPY, MAC) else [us, us, us + 9]
    return {
        "system": system,
        "size_bytes": size,
        "gb_per_s": list(gb_per_s),
        "latency_us": latency_us,
    }


def records() -> list[dict]:
    """Everything makes 2 GB/s, but for the shared memory of large messages."""
    found = [record(system, KIB, 2.0, 2.0, 2.0) for system in SYSTEMS]
    for system in SYSTEMS:
        rates = {"shm": (6.0, 3.0, 9.0), MEMCPY: (8.0, 6.0, 6.0)}.get(system, (2.0, 2.0, 2.0))
        found.append(record(system, MIB, *rates, us=200.0))
    return found


def rows(text: str, label: str) -> list[list[str]]:
    """The cells behind a label, in each table in which a line begins with it."""
    return [
        line.removeprefix(label).split()
        for line in text.splitlines()
        if line.startswith(f"{label} ")
    ]


def test_rates_and_latencies_are_medians_over_rounds(capsys):
    show(records())
    text = capsys.readouterr().out
    rates, latencies = rows(text, "shm")[:2]
    assert rates == ["2.00", "6.00"]
    assert latencies == ["20", "200"]
    assert rows(text, MEMCPY) == [["2.00", "6.00"]], "a copy has no latency"


def test_share_of_a_baseline_is_the_median_of_each_rounds_own(capsys):
    """Of the same round: 6/8, 3/6 and 9/6; the medians' ratio would be 1."""
    show(records())
    text = capsys.readouterr().out
    assert rows(text, f"shm of {MEMCPY}") == [["1.00", "0.75"]]
    assert rows(text, "gloo of raw gloo") == [["1.00", "1.00"]]


def test_each_of_our_links_has_a_baseline_of_the_same_run():
    assert BASELINES.keys() == set(OURS)
    assert set(BASELINES.values()) <= {MEMCPY, SIGNED, *RAW, "zmq-tcp unsigned"}


def test_signing_allows_what_is_left_of_the_wire_if_both_ends_do_it_in_turn():
    by = {(r["system"], r["size_bytes"]): r for r in records()}
    assert of_signing(by, KIB) == [2.0 / 3] * 3


def test_size_is_shown_in_the_unit_that_fits():
    assert [size_label(size) for size in (KIB, 256 * KIB, MIB, 64 * MIB)] == [
        *("1 KiB", "256 KiB", "1 MiB", "64 MiB")
    ]


def test_picture_is_drawn(tmp_path):
    draw(records(), tmp_path / "deep" / "links.png")
    assert (tmp_path / "deep" / "links.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_of_a_message_and_half_a_round_trip(monkeypatch):
    cases: list[Case] = []

    def run(orders, case: Case) -> float:
        del orders
        cases.append(case)
        return case.num_messages * (0.001 if case.window > 1 else 0.004)

    monkeypatch.setattr(comparison, "run", run)
    monkeypatch.setattr(comparison, "copy", lambda source, rooms, num: num * 0.0005)
    monkeypatch.setattr(comparison, "sign", lambda source, num: num * 0.001)
    found = {r["system"]: r for r in measure_size(None, 1000, rounds=3)}
    assert found.keys() == set(SYSTEMS)
    assert found["gloo"]["gb_per_s"] == pytest.approx([0.001] * 3)
    assert found["gloo"]["latency_us"] == pytest.approx([2000.0] * 3)
    assert found[MEMCPY]["gb_per_s"] == pytest.approx([0.002] * 3)
    assert found[MEMCPY]["latency_us"] == []
    assert len({case.where for case in cases}) == len(cases) == 3 * 2 * len((*OURS, *RAW))
    orders = [[c.system for c in cases if c.where.endswith(f"-{n}")] for n in range(3)]
    assert len({tuple(order) for order in orders}) == 3, "each round has an order of its own"


@pytest.mark.parametrize(
    ("size", "num", "window"),
    [(KIB, 400, 8), (4 * MIB, 128, 8), (16 * MIB, 32, 2), (256 * MIB, 4, 2)],
)
def test_flow_has_fewer_messages_the_larger_they_are(monkeypatch, size, num, window):
    cases: list[Case] = []
    monkeypatch.setattr(comparison, "run", lambda orders, case: cases.append(case) or 1.0)
    monkeypatch.setattr(comparison, "copy", lambda *_: 1.0)
    monkeypatch.setattr(comparison, "sign", lambda source, num: 1.0)
    monkeypatch.setattr(comparison.torch, "ones", lambda size, dtype: None)
    measure_size(None, size, rounds=1)
    flows = {(case.num_messages, case.window) for case in cases if case.window > 1}
    pings = {(case.num_messages, case.window) for case in cases if case.window == 1}
    assert flows == {(num, window)}
    assert pings == {(min(100, num), 1)}
