"""How many images a network takes at once: as many as the free memory holds.

Activations are what fills the memory, not images. When a matrix size is first seen they are counted
as twice the sum of what the network's layers put out for one image: on a CPU 61 MiB for 256 x 256
and `brain-small`, where the peak of a whole reconstruction grows by 40 MiB per chain. Where even
that was too little, or others took the memory meanwhile, the batch is halved and tried again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

SHARE = 0.5
"""Of the free memory: the rest is for the chains, and for whoever else is there."""
_ASKED_SECONDS = 5.0
"""How long an answer to the question for the free memory is believed."""


def free_bytes(device: torch.device) -> int:
    """What the device has left: on a GPU with what torch keeps but does not use."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(unused)
    return int(psutil.virtual_memory().available)


class FittingParts:
    """Runs a function of images on parts of a batch that fit."""

    def __init__(
        self, network: nn.Module, free: Callable[[torch.device], int] = free_bytes
    ) -> None:
        self._network = network
        self._free = free
        self._bytes: dict[torch.Size, int] = {}
        self._most: dict[torch.Size, int] = {}
        self._fitting: dict[torch.Size, tuple[float, int]] = {}

    def run(
        self, function: Callable[[Tensor, Tensor], Tensor], images: Tensor, levels: Tensor
    ) -> Tensor:
        """`function(images, levels)`, both split along their first axis where it has to be.

        Raises torch.OutOfMemoryError when one image alone does not fit.
        """
        shape = images.shape[1:]
        if len(images) > 1 and shape not in self._bytes:
            with _counted_outputs(self._network) as counted:
                function(images[:1], levels[:1])
            self._bytes[shape] = max(1, 2 * counted[0])
        size = min(self._most.get(shape, len(images)), len(images))
        if len(images) > 1:
            size = min(size, self._fits(shape, images.device))
        size = max(1, size)
        while True:
            try:
                if size == len(images):
                    return function(images, levels)
                parts = zip(images.split(size), levels.split(size), strict=True)
                return torch.cat([function(*part) for part in parts])
            except RuntimeError as error:
                if size == 1 or not _is_out_of_memory(error):
                    raise
            # Outside of `except`: there the traceback holds on to what has to be freed.
            size //= 2
            self._most[shape] = size
            if images.device.type == "cuda":
                torch.cuda.empty_cache()

    def _fits(self, shape: torch.Size, device: torch.device) -> int:
        """Images of a shape that half of the free memory holds; asked for every few seconds."""
        now = time.monotonic()
        asked, most = self._fitting.get(shape, (-math.inf, 0))
        if now - asked > _ASKED_SECONDS:
            most = int(SHARE * self._free(device)) // self._bytes[shape]
            self._fitting[shape] = now, most
        return most


def _is_out_of_memory(error: BaseException) -> bool:
    """CPU allocations that fail are plain RuntimeErrors."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def _counted_outputs(network: nn.Module) -> Iterator[list[int]]:
    """The bytes that the network's layers put out while the block runs, in a list of one."""
    counted = [0]

    def add(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            counted[0] += output.nbytes

    layers = [module for module in network.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()
