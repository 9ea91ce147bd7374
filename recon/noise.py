"""Random numbers as an argument: one stream per chain, the same whatever the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


class Band(NamedTuple):
    """Fourier coefficients of a noise image that slices of one stack draw together."""

    part: float
    """Of rows and columns of k-space, round its centre; what a smaller band holds is the latter's.
    The largest band holds all: its part is one."""
    fields: tuple[tuple[str, float], ...]
    """Names of white fields, with weights whose squares sum to one: whatever they are, the numbers
    of one slice are white and of unit variance."""


class NoiseKey(NamedTuple):
    """Which numbers a run of one slice takes."""

    seed: int
    purpose: str
    """Name of the slice and of the run."""
    bands: tuple[Band, ...] = ()
    """What is shared with other slices, from the largest part to the smallest; () is nothing."""


class NoiseStreams:
    """Independent streams of standard normal numbers, one per chain.

    Numbers are drawn on the CPU and moved, so that a seed means the same on every device.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        pooled: int = 0,
        bands: Sequence[tuple[float, Sequence[tuple[float, NoiseStreams]]]] = (),
    ) -> None:
        self._generators = tuple(generators)
        self._pooled = pooled
        self._bands = tuple(bands)

    @classmethod
    def keyed(cls, seed: int, purpose: str, chains: Sequence[int]) -> Self:
        """Streams keyed by (seed, purpose, chain); `purpose` names the slice and the run."""
        return cls([torch.Generator().manual_seed(_key(seed, purpose, n)) for n in chains])

    @classmethod
    def of(cls, key: NoiseKey, chains: Sequence[int]) -> Self:
        """Streams of a slice, and those that it shares with its neighbours."""
        generators = [torch.Generator().manual_seed(_key(*key[:2], n)) for n in chains]
        bands = [
            (part, [(weight, cls.keyed(key.seed, name, chains)) for name, weight in fields])
            for part, fields in key.bands
        ]
        return cls(generators, bands=bands)

    @classmethod
    def pooled(cls, seed: int, chains: int) -> Self:
        """One stream for all chains: fast for the thousands of chains of a statistical test."""
        return cls([torch.Generator().manual_seed(seed)], pooled=chains)

    @property
    def chains(self) -> int:
        """Number of chains served."""
        return self._pooled or len(self._generators)

    def image(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Normal numbers (chains, rows, columns) as `normal`, of what an image may be.

        They are shared with neighbouring slices as the key says. Noise that stands for that of a
        receiver never is: `normal` gives it.
        """
        if not self._bands:
            return self.normal(shape, device)
        spectrum = torch.empty(0)
        for part, fields in self._bands:
            inner = [max(1, round(part * side)) for side in shape]
            drawn = sum(weight * streams.normal(inner, device) for weight, streams in fields)
            assert isinstance(drawn, Tensor)
            if not spectrum.numel():
                spectrum = drawn
                continue
            top, left = (side // 2 - n // 2 for side, n in zip(shape, inner, strict=True))
            spectrum[:, top : top + inner[0], left : left + inner[1]] = drawn
        unshifted = torch.fft.ifftshift(spectrum, dim=(-2, -1))
        # Where an image begins is the same for all slices, and for white noise it means nothing.
        return torch.fft.ifft2(unshifted, norm="ortho")

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
