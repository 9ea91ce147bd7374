"""Random numbers as an argument: one stream per chain, the same whatever the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor


class NoiseStreams:
    """Independent streams of standard normal numbers, one per chain.

    Numbers are drawn on the CPU and moved, so that a seed means the same on every device.
    """

    def __init__(self, generators: Sequence[torch.Generator], pooled: int = 0) -> None:
        self._generators = tuple(generators)
        self._pooled = pooled

    @classmethod
    def keyed(cls, seed: int, purpose: str, chains: Sequence[int]) -> Self:
        """Streams keyed by (seed, purpose, chain); `purpose` names the slice and the run."""
        return cls([torch.Generator().manual_seed(_key(seed, purpose, n)) for n in chains])

    @classmethod
    def pooled(cls, seed: int, chains: int) -> Self:
        """One stream for all chains: fast for the thousands of chains of a statistical test."""
        return cls([torch.Generator().manual_seed(seed)], pooled=chains)

    @property
    def chains(self) -> int:
        """Number of chains served."""
        return self._pooled or len(self._generators)

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Complex normal numbers (chains, *shape), unit variance per real component."""
        size = (*shape, 2)
        if self._pooled:
            drawn = torch.randn((self._pooled, *size), generator=self._generators[0])
        else:
            drawn = torch.stack([torch.randn(size, generator=g) for g in self._generators])
        return torch.view_as_complex(drawn).to(device)


def _key(seed: int, purpose: str, chain: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}/{chain}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
