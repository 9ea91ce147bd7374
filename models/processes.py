"""One process of a training run that may have several, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Process:
    """Which process this is, of how many, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The process that writes files and reports."""
        return self.rank == 0

    @property
    def device_ids(self) -> list[int] | None:
        """For DistributedDataParallel: the process's GPU, None on a CPU."""
        return None if self.device.index is None else [self.device.index]

    def share(self, batch: int) -> int:
        """Patches of this process in a batch of all."""
        return max(1, batch // self.count)

    def wait(self) -> None:
        """Until every process has come here."""
        if self.count > 1:
            distributed.barrier()

    @classmethod
    @contextmanager
    def join(cls, device: torch.device) -> Iterator[Process]:
        """Join the processes that `torchrun` names in the environment; alone without it."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls(0, 1, device)
            return
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield cls(distributed.get_rank(), count, device)
        finally:
            distributed.destroy_process_group()
