"""ResNets (arXiv 1512.03385) as lists of units, a residual block a unit.

Owns the architecture: names, shapes and initialisation equal torchvision's, so that weights
interchange. Knows nothing of cuts, heads or losses. No module here changes its input in place:
that input may still be on its way to another process.

Shapes: B images, C channels, H height, W width.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from models.network import Network, Unit

Depth = Literal[18, 34, 50]
Stem = Literal["imagenet", "cifar"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) -> (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = functional.relu_(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = self.bn2(self.conv2(y_BCHW))
        return functional.relu_(y_BCHW + self.downsample(x_BCHW))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions: (B, C, H, W) -> (B, 4 width, H/stride, W/stride).

    The stride is in the 3x3 convolution, as in torchvision ("ResNet v1.5").
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, kernel=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, kernel=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, width * self.expansion, kernel=1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(in_channels, width * self.expansion, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = functional.relu_(self.bn1(self.conv1(x_BCHW)))
        y_BCHW = functional.relu_(self.bn2(self.conv2(y_BCHW)))
        y_BCHW = self.bn3(self.conv3(y_BCHW))
        return functional.relu_(y_BCHW + self.downsample(x_BCHW))


Block = type[ResidualBlock] | type[Bottleneck]

BLOCKS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (ResidualBlock, (2, 2, 2, 2)),
    34: (ResidualBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def resnet(depth: Depth, *, stem: Stem, width: int = 64, in_channels: int = 3) -> Network:
    """Make the ResNet of a depth, without its classifier (see `network.build_plain`).

    `width` is the number of channels of the stem, and of the first stage's 3x3 convolutions.
    The cifar stem is one 3x3 convolution of stride 1, without max-pool (arXiv 2002.05709, B.9).
    """
    if depth not in BLOCKS:
        raise ValueError(f"no ResNet of depth {depth!r}; choose one of {sorted(BLOCKS)}")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"no ResNet stem {stem!r}; choose 'imagenet' or 'cifar'")
    block, num_blocks = BLOCKS[depth]
    name = f"resnet{depth}" + ("-cifar" if stem == "cifar" else "")
    build = partial(_stem, in_channels, width, stem)
    return _assemble(_named(name, width, 64), build, block, num_blocks, width=width)


def small_resnet(width: int = 16, in_channels: int = 1) -> Network:
    """Make a ResNet of five units for images of about 16x16, one residual block a stage."""
    stem = partial(_stem, in_channels, width, "cifar")
    name = _named("resnet-small", width, 16)
    return _assemble(name, stem, ResidualBlock, (1, 1, 1, 1), width=width)


def _named(name: str, width: int, usual: int) -> str:
    return name if width == usual else f"{name}-w{width}"


def _assemble(
    name: str,
    stem: Callable[[], nn.Module],
    block: Block,
    num_blocks: tuple[int, int, int, int],
    *,
    width: int,
) -> Network:
    units = [Unit(name="stem", prefix="", build=stem)]
    first_units = []
    in_channels = width
    for stage, num in enumerate(num_blocks):
        first_units.append(len(units))
        stage_width = width * 2**stage
        for i in range(num):
            unit_name = f"layer{stage + 1}.{i}"
            stride = 2 if stage > 0 and i == 0 else 1
            build = partial(_initialised, block, in_channels, stage_width, stride)
            units.append(Unit(name=unit_name, prefix=f"{unit_name}.", build=build))
            in_channels = stage_width * block.expansion
    first, *above = first_units
    # LoCo leaves conv4_x and conv5_x together. With four blocks the stem is one of its own.
    return Network(
        name=name,
        units=tuple(units),
        stages=(0, *above),
        cuts=((0, *above[:-1]), (0, first, *above[:-1])),
        num_features=in_channels,
    )


def _stem(in_channels: int, width: int, stem: Stem) -> nn.Module:
    imagenet = stem == "imagenet"
    module = nn.Sequential()
    kernel, stride = (7, 2) if imagenet else (3, 1)
    module.add_module("conv1", _conv(in_channels, width, kernel=kernel, stride=stride))
    module.add_module("bn1", nn.BatchNorm2d(width))
    module.add_module("relu", nn.ReLU(inplace=True))
    if imagenet:
        module.add_module("maxpool", nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
    return _initialise(module)


def _initialised(block: Block, in_channels: int, width: int, stride: int) -> nn.Module:
    return _initialise(block(in_channels, width, stride))


def _initialise(module: nn.Module) -> nn.Module:
    """Draw the convolutions' weights as torchvision does; BatchNorm begins as the identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
    return module


def _conv(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        _conv(in_channels, out_channels, kernel=1, stride=stride), nn.BatchNorm2d(out_channels)
    )
