"""A small residual network for CPUs: the demo, and first experiments on a laptop.

Shape suffixes: N batch, C channels, H and W height and width, D embedding size.

It is fast because of where the work is. Two convolutions of stride 2 reduce the image to a quarter
of its side before the first residual block; the first convolution of a block has its stride; the
shortcut averages before it projects; and ReLU replaces PReLU, which on a CPU costs several times as
much as a batch norm. Each stage then does a similar amount of arithmetic in dense kernels that are
large enough for vector units; depthwise convolutions are not.

Sources: He et al., "Identity Mappings in Deep Residual Networks", arXiv 1603.05027; He et al.,
"Bag of Tricks for Image Classification with Convolutional Neural Networks", arXiv 1812.01187
(averaging shortcut, small convolutions in the stem); the layers behind the last feature map are
those of `backbones.iresnet`.
"""

from torch import Tensor, nn

from backbones.activation_checkpointing import run_blocks
from backbones.batch_norm import BatchNorm2d
from backbones.iresnet import EmbeddingNet


class TinyBlock(nn.Module):
    """BN, conv 3x3 with the stride, BN, ReLU, conv 3x3, BN; plus the (projected) input.

    [N, channels_in, H, W] → [N, channels_out, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                BatchNorm2d(channels_out),
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output."""
        output: Tensor = self.residual(x_NCHW) + self.shortcut(x_NCHW)
        return output


class TinyResNet(EmbeddingNet):
    """Residual network with 95 million multiply-adds for a side of 112; r18 has 2,600 million.

    For the arguments see `backbones.build.build_backbone`.
    """

    WIDTHS = (24, 48, 96, 192)

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
        half, quarter, eighth, sixteenth = self.WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(3, half, 3, 2, padding=1, bias=False),
            BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, quarter, 3, 2, padding=1, bias=False),
            BatchNorm2d(quarter),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            TinyBlock(quarter, quarter, stride=1),
            TinyBlock(quarter, eighth, stride=2),
            TinyBlock(eighth, sixteenth, stride=2),
        )
        self.bn = BatchNorm2d(sixteenth)
        self.add_embedding(sixteenth, image_size, embedding_size, dropout)

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return what comes before the embedding, in the order of its use; see `freezing`."""
        layers = {f"layer{n}": [block] for n, block in enumerate(self.blocks, 1)}
        return {"stem": [self.stem], **layers}

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return embeddings `[N, D]`, not normalised, of images `[N, 3, S, S]`, RGB in [-1, 1]."""
        x = run_blocks(self.blocks, self.stem(images_NCHW), recompute=self.activation_checkpointing)
        return self.embed(self.bn(x))
