"""What a head holds in memory."""

from torch import Tensor

from recognition.head.partial_fc import PartialFC
from recognition.head.separate_heads import SeparateHeads, heads_by_name


def state_of(head: PartialFC | SeparateHeads) -> list[Tensor]:
    """Return the centres of this rank and what their optimizer keeps, as they are kept."""
    return [buffer for each in heads_by_name(head).values() for buffer in each.table.buffers()]


def workspace_bytes(head: PartialFC | SeparateHeads) -> int:
    """Return the bytes of the temporaries that are used again for every block."""
    return sum(
        each._softmax.stream.threads.workspace_bytes() for each in heads_by_name(head).values()
    )
