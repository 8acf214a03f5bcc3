"""The "improved" residual networks of ArcFace, with the layout of the published weight files.

Shape suffixes: N batch, C channels, H and W height and width, D embedding size.

Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
arXiv 1801.07698, section 3.1 (network LResNet-E-IR); the pre-activation block follows Han et al.,
"Deep Pyramidal Residual Networks", arXiv 1610.02915.
"""

import torch
from torch import Tensor, nn

from backbones.activation_checkpointing import run_blocks
from backbones.batch_norm import BatchNorm1d, BatchNorm2d


class ResidualBlock(nn.Module):
    """BN, conv 3x3, BN, PReLU, conv 3x3 with the stride, BN; plus the (projected) input.

    [N, channels_in, H, W] → [N, channels_out, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels_out)
        self.prelu = nn.PReLU(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride, padding=1, bias=False)
        self.bn3 = BatchNorm2d(channels_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                BatchNorm2d(channels_out),
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x_NCHW))))
        y = self.bn3(self.conv2(y))
        output: Tensor = y + self.downsample(x_NCHW)
        return output


class EmbeddingNet(nn.Module):
    """Base of networks that end in dropout, a linear layer and a batch norm."""

    def add_embedding(
        self, channels: int, image_size: int, embedding_size: int, dropout: float
    ) -> None:
        """Add the last layers, and draw the initial weights as published: N(0, 0.1²).

        The scale of the last layer is fixed at 1: only the direction of an embedding matters to
        the margin losses, which normalise it.
        """
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * (-(-image_size // 16)) ** 2, embedding_size)
        self.features = BatchNorm1d(embedding_size)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)
        self.features.weight.requires_grad_(False)

    def embed(self, x_NCHW: Tensor) -> Tensor:
        """Return the embeddings [N, D] of the last feature map.

        Under autocast too, these layers run in the dtype of their weights, so embeddings are
        float32 unless the network itself was converted.
        """
        x = self.dropout(x_NCHW).flatten(1)
        with torch.autocast(x.device.type, enabled=False):
            embeddings_ND: Tensor = self.features(self.fc(x.to(self.fc.weight.dtype)))
        return embeddings_ND


class IResNet(EmbeddingNet):
    """Residual network for aligned faces: four stages, each of which halves the side.

    With `embedding_size=512` and `image_size=112` the state dict has the names, order and shapes
    of the published weight files; other sizes change only `fc` (and `features`).

    `blocks` is the number of residual blocks of each stage; for the other arguments see
    `backbones.build.build_backbone`.
    """

    WIDTHS = (64, 128, 256, 512)

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        embedding_size: int,
        dropout: float,
        image_size: int,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        stem, last = self.WIDTHS[0], self.WIDTHS[-1]
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(stem)
        self.prelu = nn.PReLU(stem)
        self.layer1 = _stage(stem, self.WIDTHS[0], blocks[0])
        self.layer2 = _stage(self.WIDTHS[0], self.WIDTHS[1], blocks[1])
        self.layer3 = _stage(self.WIDTHS[1], self.WIDTHS[2], blocks[2])
        self.layer4 = _stage(self.WIDTHS[2], self.WIDTHS[3], blocks[3])
        self.bn2 = BatchNorm2d(last)
        self.add_embedding(last, image_size, embedding_size, dropout)

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return what comes before the embedding, in the order of its use; see `freezing`."""
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        named: dict[str, list[nn.Module]] = {f"layer{n}": [x] for n, x in enumerate(layers, 1)}
        return {"stem": [self.conv1, self.bn1, self.prelu], **named}

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return embeddings `[N, D]`, not normalised, of images `[N, 3, S, S]`, RGB in [-1, 1]."""
        x = self.prelu(self.bn1(self.conv1(images_NCHW)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = run_blocks(stage, x, recompute=self.activation_checkpointing)
        return self.embed(self.bn2(x))


def _stage(channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(channels_in, channels_out, stride=2)
    rest = (ResidualBlock(channels_out, channels_out, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
