"""What a user's unit may be and may give, as seen before anything starts.

Each of these once came to light in a worker, after three restarts, in a message that named no unit.
"""

import pytest
import torch
from torch import nn

from models.network import (
    Network,
    Unit,
    build_plain,
    check_builds,
    from_sequential,
    trace_units,
)
from models.plugins import UsersError
from models.unit_costs import count_unit_costs
from models.unit_module import check_module, check_output, uncompiled

IMAGE = (1, 2, 2)


class Gives(nn.Module):
    """A unit that gives what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def network_of(*units) -> Network:
    return from_sequential("mine", lambda: nn.Sequential(nn.Flatten(), *units), seed=0)


def refusal(*units) -> str:
    with pytest.raises(ValueError, match="of model 'mine'") as caught:
        trace_units(network_of(*units), IMAGE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What it gives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "found", "remedy"),
    [
        (lambda x: (x, x), "returned a tuple", "a module that picks one"),
        (lambda x: None, "returned a NoneType", "one tensor"),
        (lambda x: x.sum(), "returned shape () for 2 images", "one row for each image"),
        (lambda x: x[0], "returned shape (4,) for 2 images", "one row for each image"),
        (lambda x: x.T, "returned shape (4, 2) for 2 images", "one row for each image"),
        (lambda x: x[:, 0], "returned shape (2,) for 2 images", "Flatten or reshape"),
        (lambda x: x[:, :0], "returned shape (2, 0) for 2 images", "Flatten or reshape"),
        (
            lambda x: x.reshape(2, 1, 2, 2, 1),
            "returned shape (2, 1, 2, 2, 1) for 2 images",
            "(F,) features, an (L, D) sequence or (C, H, W) channels",
        ),
        (lambda x: x.long(), "returned int64", "end the unit with .float()"),
        (lambda x: x > 0, "returned bool", "make one unit of it and the next"),
        (lambda x: torch.complex(x, x), "returned complex64", ".abs()"),
    ],
)
def test_output_that_no_block_can_end_on_is_refused(function, found, remedy):
    message = refusal(Gives(function))
    assert message.startswith(f"unit '1' (2 of 2) of model 'mine' {found}; ")
    assert remedy in message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_floating_dtypes_are_all_carried(dtype):
    (_, trace) = trace_units(network_of(Gives(lambda x: x.to(dtype))), IMAGE)
    assert trace.output_dtype == str(dtype).removeprefix("torch.")


def raises(x):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("unit", "error"),
    [
        (Gives(lambda x: x.to(torch.bfloat16)), "RuntimeError"),  # which the Linear above is not
        (nn.Linear(7, 5), "RuntimeError"),
        (Gives(raises), "KeyError"),
    ],
)
@pytest.mark.parametrize("look", [trace_units, count_unit_costs])
def test_unit_that_raises_is_named_with_its_input(unit, error, look):
    network = network_of(unit, nn.Linear(4, 3))
    with pytest.raises(UsersError) as caught:
        look(network, IMAGE)
    message = str(caught.value)
    place, dtype = ("'2' (3", "bfloat16") if isinstance(unit, Gives) else ("'1' (2", "float32")
    if error == "KeyError":
        place, dtype = "'1' (2", "float32"
    expected = f"unit {place} of 3) of model 'mine' raised {error} on an input of shape (2, 4)"
    assert message.startswith(f"{expected}, {dtype}: ")
    assert type(caught.value.__cause__).__name__ == error


def test_build_that_raises_is_named():
    def build():
        raise OSError("no weights")

    network = Network(name="mine", units=(Unit(name="a", prefix="a.", build=build),))
    with pytest.raises(UsersError, match=r"unit 'a' \(1 of 1\) .* OSError as it was built: no w"):
        network.build_unit(0, seed=0)


# What it is -------------------------------------------------------------------------------------


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(4, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "found", "remedy"),
    [
        (lambda: nn.LazyLinear(3), "is lazy: 'weight' has no shape", "give its layers their sizes"),
        (lambda: nn.Sequential(nn.LazyBatchNorm1d()), "is lazy: '0.weight'", "sizes"),
        (on_meta, "holds 'weight' on the meta device", "build it on the CPU"),
        (lambda: torch.jit.script(nn.Linear(4, 3)), "holds TorchScript,", "before torch.jit"),
        (
            lambda: nn.Sequential(torch.jit.trace(nn.Linear(4, 3), torch.ones(2, 4))),
            "holds TorchScript at '0'",
            "before torch.jit",
        ),
        (
            lambda: nn.utils.weight_norm(nn.Linear(4, 3)),
            "can't be copied",
            "torch.nn.utils.parametrizations has weight_norm",
        ),
    ],
)
def test_module_that_no_block_can_hold_is_refused(make, found, remedy):
    message = refusal(make())
    assert message.startswith("unit '1' (2 of 2) of model 'mine'")
    assert found in message
    assert remedy in message


class Remakes(nn.Module):
    """A unit with a buffer, which a function makes anew as it trains."""

    def __init__(self, buffer, renew=lambda buffer: buffer):
        super().__init__()
        self.held = nn.Buffer(buffer)
        self.renew = renew

    def forward(self, x):
        if self.training:
            self.held = self.renew(self.held)
        return x


def by_inference(buffer):
    with torch.inference_mode():
        return buffer + 1


@pytest.mark.parametrize(
    ("unit", "found", "remedy"),
    [
        (lambda: Remakes(torch.eye(4).to_sparse()), "holds 'held' as sparse_coo", ".to_dense()"),
        (
            lambda: Remakes(torch.ones(1).expand(4)),
            "holds 'held' of shape (4,) expanded",
            ".clone()",
        ),
        (
            lambda: Remakes(torch.ones(4), lambda b: b[:1].expand(4)),
            "holds 'held' of shape (4,) expanded",
            ".clone()",
        ),
        (
            lambda: Remakes(torch.ones(1, 4), lambda b: torch.cat([b, b])),
            "changes the buffer 'held' as it trains, from (1, 4) float32 to (2, 4) float32",
            "give it its last shape and type as it is built",
        ),
        (
            lambda: Remakes(torch.empty(0), lambda b: torch.ones(4)),
            "changes the buffer 'held' as it trains, from (0,) float32 to (4,) float32",
            "make it a plain attribute",
        ),
        (
            lambda: Remakes(torch.ones(4), by_inference),
            "makes 'held' in torch.inference_mode",
            "torch.no_grad",
        ),
    ],
)
def test_tensor_that_no_new_worker_could_take_over_is_refused(unit, found, remedy):
    """Such a unit trained until a worker had to be restarted, or its weights handed in."""
    message = refusal(unit())
    assert message.startswith(f"unit '1' (2 of 2) of model 'mine' {found}")
    assert remedy in message


def test_buffer_that_is_made_anew_in_its_own_form_is_not_refused():
    trace_units(network_of(Remakes(torch.ones(4), lambda buffer: buffer + 1)), IMAGE)


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), on_meta, lambda: None])
def test_module_of_a_users_own_network_is_refused_too(make):
    network = Network(name="mine", units=(Unit(name="a", prefix="a.", build=make),))
    with pytest.raises(ValueError, match=r"unit 'a' \(1 of 1\) of model 'mine'"):
        trace_units(network, (4,))


def test_parametrized_weight_norm_can_be_copied():
    network = network_of(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    assert trace_units(network, IMAGE)[1].num_trainable == 3 * 4 + 3 + 3


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (None, "built a NoneType; an nn.Sequential is needed"),
        (nn.Sequential, r"gave the class Sequential itself; return Sequential\(\.\.\.\)"),
        (nn.Sequential(), r"built an empty nn\.Sequential; each child is a unit"),
        (nn.Linear(2, 2), r"built a Linear; an nn\.Sequential is needed, to be cut"),
    ],
)
def test_object_that_is_no_network_is_refused(built, message):
    with pytest.raises(ValueError, match=message):
        from_sequential("mine", lambda: built, seed=0)


def test_forward_that_would_be_lost_is_refused():
    """A Sequential whose own forward adds a residual was trained without it, in silence."""

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    with pytest.raises(ValueError, match="Residual with a forward of its own"):
        from_sequential("mine", lambda: Residual(nn.Linear(2, 2)), seed=0)


# Compiled ---------------------------------------------------------------------------------------


class OptimizedModule(nn.Module):
    """As torch.compile's, without the compiler's import."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def forward(self, x):
        return self._orig_mod(x)


def compiled_in_place() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer._compiled_call_impl = lambda x: x  # what nn.Module.compile leaves behind
    return layer


@pytest.mark.parametrize(
    "unit",
    [
        lambda: OptimizedModule(nn.Linear(4, 3)),
        lambda: OptimizedModule(OptimizedModule(nn.Linear(4, 3))),
        lambda: nn.Sequential(OptimizedModule(nn.Linear(4, 3))),
        compiled_in_place,
    ],
)
def test_compiled_unit_has_plain_names_and_runs_uncompiled(unit):
    """Its weights were named 1._orig_mod.weight, which no plain network could load."""
    network = network_of(unit())
    assert not [name for name in build_plain(network, seed=0).state_dict() if "_orig" in name]
    assert trace_units(network, IMAGE)[1].was_compiled
    assert build_plain(network, seed=0)(torch.ones(2, 1, 2, 2)).shape == (2, 3)
    own = Network(name="own", units=(Unit(name="a", prefix="a.", build=unit),))
    assert trace_units(own, (4,))[0].was_compiled
    assert not [name for name in own.build_unit(0, seed=0).state_dict() if "_orig" in name]


def test_whole_network_that_is_compiled_is_cut_all_the_same():
    whole = OptimizedModule(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    network = from_sequential("mine", lambda: whole, seed=0)
    assert [unit.name for unit in network.units] == ["0", "1"]
    assert all(trace.was_compiled for trace in trace_units(network, IMAGE))


def test_plain_unit_is_said_to_be_plain():
    plain = nn.Sequential(nn.Linear(4, 3))
    assert uncompiled(plain) == (plain, False)
    assert not trace_units(network_of(plain), IMAGE)[1].was_compiled


# One memory, one owner --------------------------------------------------------------------------


class Holds(nn.Module):
    """A unit with a buffer or parameter of someone else's."""

    def __init__(self, tensor):
        super().__init__()
        if isinstance(tensor, nn.Parameter):
            self.mine = tensor
        else:
            self.register_buffer("mine", tensor)

    def forward(self, x):
        return x + self.mine


def pairs():
    buffer, weight = torch.zeros(4), nn.Parameter(torch.zeros(4))
    batch_norm = nn.BatchNorm1d(4)
    return [
        (Holds(buffer), Holds(buffer)),
        (Holds(weight), Holds(weight)),
        (Holds(weight), Holds(nn.Parameter(weight.data))),
        (Holds(buffer), Holds(buffer[:])),
        (batch_norm, nn.Sequential(batch_norm)),
    ]


@pytest.mark.parametrize("which", range(5))
def test_memory_of_two_units_is_refused(which):
    """A buffer that two units shared was split in silence: each went on with a copy."""
    first, second = pairs()[which]
    with pytest.raises(ValueError, match=r"of '1' is '.*' of '3'; give each unit its own"):
        network_of(first, nn.ReLU(), second)
    units = [
        Unit(name=name, prefix=f"{name}.", build=lambda module=module: module)
        for name, module in (("a", first), ("b", second))
    ]
    with pytest.raises(ValueError, match="each time that it is built; make a new module"):
        check_builds(Network(name="own", units=tuple(units)))


def test_units_of_a_network_that_share_memory_are_refused():
    """Each build makes a new layer, but the second unit is given the first one's weight."""
    last = {}

    def first():
        last["weight"] = nn.Parameter(torch.zeros(4))
        return Holds(last["weight"])

    units = (
        Unit(name="a", prefix="a.", build=first),
        Unit(name="b", prefix="b.", build=lambda: Holds(last["weight"])),
    )
    with pytest.raises(ValueError, match="'mine' of 'a' is 'mine' of 'b'"):
        check_builds(Network(name="own", units=units))


def test_weight_under_two_names_within_a_unit_is_its_own_matter():
    layer = nn.Linear(4, 4)
    network = network_of(nn.Sequential(layer, nn.ReLU(), layer))
    check_builds(network)
    plain = build_plain(network, seed=0)
    assert {"1.0.weight", "1.2.weight"} <= set(plain.state_dict())


def test_tensor_that_no_file_can_hold_is_refused_at_the_start():
    """A complex64 buffer ended a run after three restarts: "which safetensors can't hold", which
    was true of complex128 alone."""
    module = nn.Linear(2, 2)
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    check_module(module, "unit 'a'")
    module.register_buffer("phase", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"unit 'a' holds 'phase' of complex128.*complex64"):
        check_module(module, "unit 'a'")


def test_output_on_another_device_is_refused_before_the_start():
    """A tensor on the meta device passed, and ended the job after three restarts."""
    with pytest.raises(ValueError, match="unit 'a' returned a tensor on meta for an input on the"):
        check_output(torch.empty(2, 3, device="meta"), "unit 'a'", 2)


def test_view_of_the_input_is_no_buffer_of_a_units_own():
    """In a pipeline it is memory of the worker below, and to write to it is SIGSEGV."""

    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Buffer(torch.zeros(1, *IMAGE))

        def forward(self, x):
            self.first = nn.Buffer(x.detach()[:1])
            return 2 * x

    with pytest.raises(ValueError, match=r"keeps a view of its input as 'first'.*\.clone\(\)"):
        trace_units(network_of(Keeps()), IMAGE)
