"""What is measured: a `HeadCase` is one method at one size, on a number of ranks."""

from dataclasses import dataclass

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MIB = 1 << 20


@dataclass(frozen=True)
class HeadCase:
    """One method at one size. All its processes get the same one."""

    method: str  # a name in `methods.METHODS`
    classes: int  # C, over all ranks
    rate: float = 1.0  # fraction of the classes that take part in a step, `0 < rate <= 1`
    dtype: str = "fp32"  # of the matrix products, a name in `DTYPES`
    ranks: int = 1  # processes that share the work
    batch: int = 128  # N, samples of the global batch
    dim: int = 512  # d, embedding size
    threads: int = 1  # CPU threads of all ranks together
    device: str = "cpu"  # or "cuda": rank r uses CUDA device r
    seed: int = 0  # of the initial centres, the batches and the sampling
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

    def __str__(self) -> str:
        return (
            f"{self.method}, {self.classes:,} classes, rate {self.rate:g}, {self.dtype}, "
            f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        )


def global_batch(case: HeadCase, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the embeddings and labels of a step: float32 [N, d] and int64 [N], on the CPU.

    A function of (seed, step), so that every method and every rank sees the same samples.
    """
    generator = torch.Generator().manual_seed(case.seed * 1_000_003 + step)
    x_Nd = torch.randn(case.batch, case.dim, generator=generator)
    return x_Nd, torch.randint(case.classes, (case.batch,), generator=generator)
