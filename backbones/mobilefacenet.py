"""MobileFaceNet, with the layout of the published weight files ("mbf").

Shape suffixes: N batch, C channels, H and W height and width, D embedding size.

Source: Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices", arXiv 1804.07573. The widths and the grouped second layer are those of the
published weights. Every part has its layers in a list called `layers`, as in the names of the
weight files.
"""

import torch
from torch import Tensor, nn

from backbones.activation_checkpointing import run_blocks
from backbones.batch_norm import BatchNorm1d, BatchNorm2d


class Chain(nn.Module):
    """Modules applied one after another, with the names `layers.0`, `layers.1` and so on."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the output of the last module."""
        output: Tensor = self.layers(x_NCHW)
        return output


class ResidualUnit(Chain):
    """A chain whose output has the shape of its input, to which it is added."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input plus the output of the last module."""
        return x_NCHW + super().forward(x_NCHW)


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution, padded so that the side becomes `ceil(H / stride)`, and its BN."""
    conv = nn.Conv2d(
        channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [conv, BatchNorm2d(channels_out)]


def conv_bn_prelu(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> Chain:
    """Return `conv_bn` followed by a PReLU."""
    layers = conv_bn(channels_in, channels_out, kernel, stride=stride, groups=groups)
    return Chain(*layers, nn.PReLU(channels_out))


def bottleneck(channels_in: int, width: int, channels_out: int, *, stride: int) -> list[nn.Module]:
    """Return expansion to `width` channels, depthwise convolution, and linear projection."""
    return [
        conv_bn_prelu(channels_in, width, 1),
        conv_bn_prelu(width, width, 3, stride=stride, groups=width),
        Chain(*conv_bn(width, channels_out, 1)),
    ]


class ResidualStack(Chain):
    """`units` residual bottlenecks that keep the shape."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__(
            *(
                ResidualUnit(*bottleneck(channels, channels, channels, stride=1))
                for _ in range(units)
            )
        )


class MobileFaceNet(nn.Module):
    """Small network for aligned faces, 0.9 GFLOPs at a side of 112.

    With `embedding_size=512` and `image_size=112` the state dict has the names, order and shapes
    of the published weight files; other sizes change `features` alone.

    For the arguments see `backbones.build.build_backbone`.
    """

    def __init__(
        self,
        *,
        embedding_size: int,
        dropout: float,
        image_size: int,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.Sequential(
            conv_bn_prelu(3, 128, 3, stride=2),
            conv_bn_prelu(128, 128, 3, groups=64),
            Chain(*bottleneck(128, 128, 128, stride=2)),
            ResidualStack(128, 4),
            Chain(*bottleneck(128, 256, 256, stride=2)),
            ResidualStack(256, 6),
            Chain(*bottleneck(256, 512, 256, stride=2)),
            ResidualStack(256, 2),
        )
        self.conv_sep = conv_bn_prelu(256, 512, 1)
        self.dropout = nn.Dropout(dropout)
        side = -(-image_size // 16)
        self.features = Chain(
            Chain(nn.Conv2d(512, 512, side, groups=512, bias=False), BatchNorm2d(512)),
            nn.Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            BatchNorm1d(embedding_size),
        )
        self._initialise()

    def _initialise(self) -> None:
        """Draw the initial weights as published: He et al. (arXiv 1502.01852), by fan-out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return what comes before the embedding, in the order of its use; see `freezing`."""
        starts = {"stem": 0, "layer1": 2, "layer2": 4, "layer3": 6}  # each halves the side
        return {name: [*self.layers[first : first + 2]] for name, first in starts.items()}

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return embeddings `[N, D]`, not normalised, of images `[N, 3, S, S]`, RGB in [-1, 1].

        Under autocast too, the layers after the last feature map run in the dtype of their
        weights, so embeddings are float32 unless the network itself was converted.
        """
        x = images_NCHW
        for layer in self.layers:
            units = layer.layers if isinstance(layer, ResidualStack) else [layer]
            x = run_blocks(units, x, recompute=self.activation_checkpointing)
        x = self.dropout(self.conv_sep(x))
        dtype = next(self.features.parameters()).dtype
        with torch.autocast(x.device.type, enabled=False):
            embeddings_ND: Tensor = self.features(x.to(dtype))
        return embeddings_ND
