"""What is measured: one `Case` is one method at one size, on so many ranks."""

from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """One method at one size. Every process of it gets the same one.

    Attributes:
        method: a name in `methods.METHODS`.
        classes: C, over all ranks.
        rate: share of the classes that take part in a step, `0 < rate <= 1`; 1 takes all.
        dtype: of the matrix products, a name in `DTYPES`.
        ranks: processes that share the work.
        batch: N, samples of the global batch.
        dim: d, embedding size.
        threads: CPU threads of all ranks together.
        device: "cpu" or "cuda"; rank r takes CUDA device r.
        seed: of the initial centres, the batches and the sampling.
        lr: learning rate of the steps.
    """

    method: str
    classes: int
    rate: float = 1.0
    dtype: str = "fp32"
    ranks: int = 1
    batch: int = 128
    dim: int = 512
    threads: int = 1
    device: str = "cpu"
    seed: int = 0
    lr: float = 0.02

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: {self.dtype!r} found, expected one of {sorted(DTYPES)}")
        if not 0.0 < self.rate <= 1.0:
            raise ValueError(f"rate: {self.rate} found, expected 0 < rate <= 1")
        for name in ("classes", "ranks", "batch", "dim", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} found, expected at least 1")
        if self.batch % self.ranks:
            raise ValueError(
                f"batch: {self.batch} found for {self.ranks} ranks, expected a multiple of them"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the matrix products."""
        return DTYPES[self.dtype]

    @property
    def table_bytes(self) -> int:
        """Bytes of all ranks' centres in float32."""
        return 4 * self.classes * self.dim


def global_batch(case: Case, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings and labels of a step: float32 [N, d] and int64 [N], on the CPU.

    A function of (seed, step), so that every method and every rank sees the same samples.
    """
    generator = torch.Generator().manual_seed(case.seed * 1_000_003 + step)
    x_Nd = torch.randn(case.batch, case.dim, generator=generator)
    return x_Nd, torch.randint(case.classes, (case.batch,), generator=generator)
