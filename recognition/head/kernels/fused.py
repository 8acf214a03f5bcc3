"""The block operations in Triton kernels, under the names of `plain`. Needs Triton."""

from recognition.head.kernels.triton_rows import add_own, read_rows, update_rows_sgd
from recognition.head.kernels.triton_softmax import softmax_block

__all__ = ["add_own", "read_rows", "softmax_block", "update_rows_sgd", "updates_in_place"]

updates_in_place = True
