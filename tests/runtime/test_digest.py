"""Digests of tensors: equal exactly if names, shapes, dtypes and bytes are."""

import hashlib

import pytest
import torch

from runtime import digest

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7)}


def test_digest_is_of_dtype_shape_and_bytes_by_hand():
    raw = hashlib.sha256(torch.tensor([1, 2], dtype=torch.uint8).numpy().tobytes()).hexdigest()
    line = f"torch.uint8 [2] {raw}"
    tensors = {"x": torch.tensor([1, 2], dtype=torch.uint8)}
    assert digest.records(tensors) == {"x": line}
    assert digest.of_tensors(tensors) == hashlib.sha256(f"x {line}\n".encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"a": STATE["a"], "c": STATE["b"]},
        {"a": STATE["a"].reshape(3, 2), "b": STATE["b"]},
        {"a": STATE["a"].view(torch.int32), "b": STATE["b"]},
        {"a": STATE["a"].nextafter(torch.tensor(9.0)), "b": STATE["b"]},
        {"a": STATE["b"], "b": STATE["a"]},
        {"a": STATE["a"]},
        {"a": STATE["a"], "b": STATE["b"].reshape(1)},
    ],
    ids=["name", "shape", "dtype", "bytes", "swapped", "fewer", "scalar"],
)
def test_digest_tells_tensors_apart(other):
    assert digest.of_tensors(other) != digest.of_tensors(STATE)


def test_digest_is_of_contents_not_of_order_or_layout():
    conjugate = torch.complex(STATE["a"], STATE["a"]).conj()  # by a mark alone
    plain = {"x": conjugate.resolve_conj()}
    assert digest.of_tensors({"x": conjugate}) == digest.of_tensors(plain)
    transposed = STATE["a"].T.contiguous().T
    assert not transposed.is_contiguous()
    other = {"b": STATE["b"].clone(), "a": transposed.requires_grad_()}
    assert digest.of_tensors(other) == digest.of_tensors(STATE)


def test_digest_of_parts_is_that_of_the_whole():
    parts = [digest.records({name: tensor}) for name, tensor in STATE.items()]
    assert digest.combine(parts) == digest.combine(reversed(parts)) == digest.of_tensors(STATE)
    with pytest.raises(AssertionError, match=r"named twice: \['a'\]"):
        digest.combine([*parts, parts[0]])


def test_digests_of_a_run_are_of_homes_and_of_all_states():
    """Blocks have names alike in their states, and homes have none: they are one network."""
    homes = [{"stem.weight": STATE["a"]}, {"fc.weight": STATE["b"]}]
    states = [{"step": STATE["b"]}, {"step": STATE["b"]}]
    found = digest.of_run(homes, states)
    assert found["weights_sha256"] == digest.of_tensors(homes[0] | homes[1])
    assert digest.block_records(1, states[1]).keys() == {"block0001/step"}
    assert found["state_sha256"] == digest.combine(
        digest.block_records(k, state) for k, state in enumerate(states)
    )
    assert digest.of_run(homes, states[:1])["state_sha256"] != found["state_sha256"]
