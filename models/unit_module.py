"""What the module of a unit must be, and what it must give.

Owns the refusals, and how a compiled module becomes a plain one. Knows nothing of networks: `who`
names the unit in errors.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.pooling import SHAPES

# What a file of weights (safetensors) has no word for.
UNSAVED = (torch.complex128, torch.complex32, torch.quint8, torch.qint8, torch.qint32)


def uncompiled(module: nn.Module) -> tuple[nn.Module, bool]:
    """Take off torch.compile, around the module and all in it; tell whether there was any.

    By its class's name: to import torch's compiler takes over a second.
    """
    if type(module).__name__ == "OptimizedModule":
        return uncompiled(module.get_submodule("_orig_mod"))[0], True
    if isinstance(module, torch.jit.ScriptModule):
        return module, False  # refused by check_module
    was_compiled = module._compiled_call_impl is not None
    if was_compiled:
        module._compiled_call_impl = None
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name], inside = uncompiled(child)
            was_compiled = was_compiled or inside
    return module, was_compiled


def check_module(module: object, who: str) -> None:
    """Raise ValueError unless the module is one whose weights can be copied, sent and saved."""
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise ValueError(f"{who} was built as a {kind}; build an nn.Module")
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"{who} holds TorchScript{_at(path)}, which can't be taken apart; give the module"
                " as it was before torch.jit.script or torch.jit.trace"
            )
    for name, tensor in own_tensors(module):
        if is_lazy(tensor):
            raise ValueError(
                f"{who} is lazy: {name!r} has no shape yet; give its layers their sizes, or run"
                " the network on a blank image before it is returned"
            )
        if tensor.dtype in UNSAVED:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{who} holds {name!r} of {dtype}, which a file of weights can't; store it as"
                " complex64, or as its real and imaginary part"
            )
        if tensor.is_meta and torch.get_default_device().type != "meta":  # not asked for by ours
            raise ValueError(
                f"{who} holds {name!r} on the meta device, without values; build it on the CPU"
            )
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise ValueError(
                f"{who} holds {name!r} as {layout}, which a file of weights can't; store it dense"
                " (.to_dense()), or its indices and its values as a buffer each"
            )
        if any(
            size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
        ):
            raise ValueError(
                f"{who} holds {name!r} of shape {tuple(tensor.shape)} expanded from fewer numbers,"
                " into which no saved state can be written; give it memory of its own: .clone()"
            )


def _at(path: str) -> str:
    return f" at {path!r}" if path else ""


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once, also those that a state dict leaves out or has twice."""
    return [*module.named_parameters(), *module.named_buffers()]


def forms_of(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Shape and type of each, by name, to be compared and shown."""
    return {
        name: f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors
    }


def changed_form(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What is wrong if a buffer's form changes as it trains, and the remedy; "" if none does."""
    for name in {**before, **after}:
        was, now = (forms.get(name, "none") for forms in (before, after))
        if was != now:
            return (
                f"changes the buffer {name!r} as it trains, from {was} to {now}, which a new worker"
                " can't take over; give it its last shape and type as it is built, or, if it can be"
                " computed again at any time, make it a plain attribute"
            )
    return ""


def check_as_trained(module: nn.Module, who: str, before: Mapping[str, str], given: Tensor) -> None:
    """Raise ValueError if a module that ran in training mode on `given`, and before had tensors of
    these forms, has come to hold what can't be saved or loaded."""
    check_module(module, who)
    if name := memory_of(module).get(given.untyped_storage().data_ptr()):
        raise ValueError(
            f"{who} keeps a view of its input as {name!r}, which is memory of others; keep a"
            " .clone()"
        )
    for name, tensor in own_tensors(module):
        if tensor.is_inference():
            raise ValueError(
                f"{who} makes {name!r} in torch.inference_mode, after which nothing can be written"
                " into it; use torch.no_grad"
            )
    if change := changed_form(before, forms_of(own_tensors(module))):
        raise ValueError(f"{who} {change}")


def memory_of(module: nn.Module) -> dict[int, str]:
    """Where each of its tensors lies, by name; several may lie in one piece of memory."""
    return {
        tensor.untyped_storage().data_ptr(): name
        for name, tensor in own_tensors(module)
        if tensor.layout == torch.strided and tensor.numel()
    }


def check_memory_apart(units: Sequence[tuple[str, nn.Module]], model: str) -> None:
    """Raise ValueError if two units share a parameter, a buffer, or memory of such."""
    owners: dict[int, tuple[str, str]] = {}
    for unit, module in units:
        for address, name in memory_of(module).items():
            if address in owners:
                other, its_name = owners[address]
                raise ValueError(
                    f"model {model!r} shares memory between two of its units, which can't be cut"
                    f" apart: {its_name!r} of {other!r} is {name!r} of {unit!r}; give each unit"
                    " its own, or make one unit of both"
                )
            owners[address] = unit, name


def check_output(y: object, who: str, num_images: int) -> None:
    """Raise ValueError unless a block can end here: a head stands on one floating-point tensor."""
    needed = f"it must return one tensor, one row for each image: {SHAPES}"
    if not isinstance(y, Tensor):
        kind = type(y).__name__
        raise ValueError(f"{who} returned a {kind}; {needed}. Wrap it in a module that picks one")
    shape = tuple(y.shape)
    if y.ndim == 0 or len(y) != num_images:
        raise ValueError(f"{who} returned shape {shape} for {num_images} images; {needed}")
    if y.ndim - 1 not in (1, 2, 3) or not y.numel():
        raise ValueError(
            f"{who} returned shape {shape} for {num_images} images; {needed}. Flatten or reshape"
            " it, or make one unit of it and the next"
        )
    if y.device.type not in ("cpu", torch.get_default_device().type):
        raise ValueError(f"{who} returned a tensor on {y.device} for an input on the CPU; {needed}")
    if not y.is_floating_point():
        dtype = str(y.dtype).removeprefix("torch.")
        remedy = "torch.view_as_real(...).flatten(1) or .abs()" if y.is_complex() else ".float()"
        raise ValueError(
            f"{who} returned {dtype}; a local loss stands on floating point: end the unit with"
            f" {remedy}, or make one unit of it and the next"
        )
