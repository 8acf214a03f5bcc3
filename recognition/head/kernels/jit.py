"""What the kernels share: a typed decorator, and the treatment of own rows. Needs Triton."""

from collections.abc import Callable, Sequence
from typing import Any

import triton
import triton.language as tl


def kernel(varying: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator that makes a Triton kernel of a function.

    Args:
        varying: whole-number arguments that change from launch to launch. Triton would compile a
            kernel anew for a 1, for multiples of 16 and for the rest; of these it does not.
    """
    decorator: Callable[[Callable[..., Any]], Any] = triton.jit(do_not_specialize=list(varying))
    return decorator


@kernel()
def own_rows(
    own_N: tl.tensor, column_n: tl.tensor, rows: tl.tensor, samples: tl.tensor
) -> tl.tensor:
    """Return each sample's own row in the block as int32, −1 where it has none."""
    own_n = tl.load(own_N + column_n, mask=column_n < samples, other=-1)
    return tl.where((own_n >= 0) & (own_n < rows), own_n, -1).to(tl.int32)


def limit_arguments(limit: float | None) -> tuple[float, bool]:
    """Return the kernels' `limit` and `HAS_LIMIT`."""
    return (0.0, False) if limit is None else (float(limit), True)
