"""ResNets are torchvision's, unit by unit.

torchvision's own names and shapes are written out for ResNet-18; a generator that follows its
published structure gives those of 34 and 50, and is itself held against the written ones.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.network import build_plain, trace_units
from models.resnet import resnet, small_resnet

RESNET18 = (Path(__file__).parent / "torchvision_resnet18.txt").read_text().splitlines()


def listing(module):
    return [
        f"{name} {'x'.join(map(str, tensor.shape)) or 'scalar'}"
        for name, tensor in module.state_dict().items()
    ]


def published(num_blocks, *, bottleneck):
    def norm(name, channels):
        parts = ["weight", "bias", "running_mean", "running_var"]
        return [f"{name}.{p} {channels}" for p in parts] + [f"{name}.num_batches_tracked scalar"]

    lines = ["conv1.weight 64x3x7x7", *norm("bn1", 64)]
    inputs = 64
    for layer, num in enumerate(num_blocks):
        width = 64 * 2**layer
        outputs = 4 * width if bottleneck else width
        for block in range(num):
            name = f"layer{layer + 1}.{block}"
            if bottleneck:
                kernels = [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
            else:
                kernels = [(width, inputs, 3), (width, width, 3)]
            for i, (out, into, k) in enumerate(kernels, start=1):
                lines += [f"{name}.conv{i}.weight {out}x{into}x{k}x{k}"]
                lines += norm(f"{name}.bn{i}", out)
            if block == 0 and (layer > 0 or bottleneck):
                lines += [f"{name}.downsample.0.weight {outputs}x{inputs}x1x1"]
                lines += norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    return [*lines, f"fc.weight 1000x{inputs}", "fc.bias 1000"]


def on_meta(network, num_classes):
    with torch.device("meta"):
        return build_plain(network, seed=0, num_classes=num_classes)


def test_resnet18_has_torchvisions_names_and_shapes():
    assert len(RESNET18) == 122
    assert listing(on_meta(resnet(18, stem="imagenet"), 1000)) == RESNET18


@pytest.mark.parametrize(
    ("depth", "num_blocks", "bottleneck", "num_parameters"),
    [
        (18, (2, 2, 2, 2), False, 11_689_512),
        (34, (3, 4, 6, 3), False, 21_797_672),
        (50, (3, 4, 6, 3), True, 25_557_032),
    ],
)
def test_every_depth_follows_the_published_structure(depth, num_blocks, bottleneck, num_parameters):
    plain = on_meta(resnet(depth, stem="imagenet"), 1000)
    expected = published(num_blocks, bottleneck=bottleneck)
    assert listing(plain) == expected
    assert sum(p.numel() for p in plain.parameters()) == num_parameters
    if depth == 18:
        assert expected == RESNET18


def test_width_scales_every_stage():
    network = resnet(18, stem="cifar", width=16)
    assert network.name == "resnet18-cifar-w16"
    traces = trace_units(network, (3, 32, 32))
    assert [trace.output_shape[0] for trace in traces] == [16, 16, 16, 32, 32, 64, 64, 128, 128]
    wide = listing(on_meta(resnet(18, stem="cifar"), None))
    assert [line.split()[0] for line in listing(on_meta(network, None))] == [
        line.split()[0] for line in wide
    ]


def test_imagenet_stem_ends_at_seven_by_seven():
    traces = trace_units(resnet(18, stem="imagenet"), (3, 224, 224))
    assert traces[-1].output_shape[1:] == (7, 7)


def test_cifar_stem_preserves_the_size():
    network = resnet(18, stem="cifar")
    traces = trace_units(network, (3, 32, 32))
    assert traces[0].output_shape == (64, 32, 32)
    assert traces[-1].output_shape == (512, 4, 4)
    assert listing(on_meta(network, 1000))[0] == "conv1.weight 64x3x3x3"


@pytest.mark.parametrize(
    "network",
    [
        resnet(18, stem="imagenet"),
        resnet(34, stem="cifar"),
        resnet(50, stem="imagenet"),
        small_resnet(),
    ],
)
def test_stages_and_cuts_are_locos(network):
    def names(units: tuple[int, ...]) -> list[str]:
        return [network.units[unit].name for unit in units]

    above = ["layer2.0", "layer3.0"]
    assert names(network.stages) == ["stem", *above, "layer4.0"]
    assert [names(cuts) for cuts in network.cuts] == [
        ["stem", *above],
        ["stem", "layer1.0", *above],
    ]


def test_small_resnet_has_five_units_that_halve_the_size():
    network = small_resnet(width=8)
    assert [unit.name for unit in network.units] == ["stem", *(f"layer{i}.0" for i in range(1, 5))]
    shapes = [trace.output_shape for trace in trace_units(network, (1, 16, 16))]
    assert shapes == [(8, 16, 16), (8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2)]


def test_state_dict_of_a_unit_is_a_slice_of_the_whole():
    network = small_resnet(width=4)
    names = []
    for i, unit in enumerate(network.units):
        names += [unit.prefix + name for name in network.build_unit(i, seed=0).state_dict()]
    assert names == list(build_plain(network, seed=0).state_dict())


@pytest.mark.parametrize("network", [small_resnet(width=4), resnet(50, stem="imagenet")])
@pytest.mark.parametrize("training", [True, False])
def test_no_unit_spoils_its_input(network, training):
    """A unit's input is still on its way to another process while the unit runs."""
    x = torch.randn(2, network.build_unit(0, seed=0)[0].in_channels, 16, 16)
    for i in range(min(6, len(network.units))):
        before = x.clone()
        y = network.build_unit(i, seed=0).train(training)(x)
        assert torch.equal(x, before)
        x = torch.randn_like(y)  # with negatives, which a ReLU in place would spoil


def test_weights_begin_as_torchvisions():
    plain = build_plain(resnet(18, stem="imagenet"), seed=0)
    conv = plain.get_submodule("layer2.0.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert bool((plain.get_submodule("layer2.0.bn2").weight == 1).all())


@pytest.mark.parametrize(("depth", "stem"), [(19, "cifar"), (18, "tiny")])
def test_depth_or_stem_that_does_not_exist_is_refused(depth, stem):
    with pytest.raises(ValueError, match="choose"):
        resnet(depth, stem=stem)
