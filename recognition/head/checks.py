"""What a caller of the head can get wrong, said in words that help."""

import torch

_EMBEDDING_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LABEL_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def check_batch(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    size: int,
    device: torch.device,
    num_classes: int,
) -> None:
    """Raise `ValueError` unless the batch fits the head.

    The values of labels are looked at on the CPU only: on a GPU that would make the host wait.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != size:
        raise ValueError(f"embeddings: shape {_shape(embeddings)} found, expected [batch, {size}]")
    if embeddings.dtype not in _EMBEDDING_DTYPES:
        raise ValueError(
            f"embeddings: {embeddings.dtype} found, expected one of {_EMBEDDING_DTYPES}"
        )
    if embeddings.device != device:
        raise ValueError(
            f"embeddings: on {embeddings.device}, but the head computes on {device}; move one of "
            "them"
        )
    batch = embeddings.shape[0]
    if labels.shape != (batch,):
        raise ValueError(f"labels: shape {_shape(labels)} found, expected [{batch}]")
    if labels.dtype not in _LABEL_DTYPES:
        raise ValueError(f"labels: {labels.dtype} found, expected class ids as torch.int64")
    if labels.device.type == "cpu" and batch > 0:
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels: {low} to {high} found, expected class ids in [0, {num_classes}); "
                "the head's num_classes must be the dataset's"
            )


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))
