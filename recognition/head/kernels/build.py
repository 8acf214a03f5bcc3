"""The choice of the block operations' form, once, by device."""

import logging

import torch

from recognition.head.kernels.reference import BlockOps

logger = logging.getLogger(__name__)


def block_ops(device: torch.device) -> type[BlockOps]:
    """Return the form of the operations for tensors on `device`, and log which and why.

    Triton kernels on CUDA, compiled loops on a CPU, where the package that they need can be
    imported; torch everywhere else.
    """
    try:
        if device.type == "cuda":
            from recognition.head.kernels.cuda import TritonOps

            logger.info("head: block operations in Triton kernels")
            return TritonOps
        if device.type == "cpu":
            from recognition.head.kernels.cpu import CompiledOps

            logger.info("head: block operations in loops compiled for this CPU")
            return CompiledOps
    except ImportError as error:
        logger.warning("head: block operations in torch, which is slower: %s", error)
        return BlockOps
    logger.info("head: block operations in torch: there are no kernels for %s", device.type)
    return BlockOps
