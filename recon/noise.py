"""Random numbers as an argument: a stream per chain, the same whatever the batch or device."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from recon.philox import Key, words, words_on

_UNIT = 2.0**-31 * (1 - 2.0**-24)
"""From a signed word of 32 bits to the open interval (-1, 1), however it is rounded."""
_STEPS_AHEAD = 16
_LEAST_AHEAD, _MOST_AHEAD = 1 << 10, 1 << 22
"""Numbers are made for some steps at a time on a GPU, where launches cost more than numbers do."""


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

    A stream's n-th number is a function of its key and n, made where it is needed: a seed means
    the same on every device (up to the last bits of a device's inverse error function).
    """

    def __init__(
        self,
        keys: Sequence[Key],
        pooled: int = 0,
        bands: Sequence[tuple[float, Sequence[tuple[float, NoiseStreams]]]] = (),
    ) -> None:
        self._keys = tuple(keys)
        self._pooled = pooled
        self._bands = tuple(bands)
        self._position = 0
        self._ahead: _Ahead | None = None

    @classmethod
    def keyed(cls, seed: int, purpose: str, chains: Sequence[int]) -> Self:
        """Streams keyed by (seed, purpose, chain); `purpose` names the slice and the run."""
        return cls([_key(seed, purpose, n) for n in chains])

    @classmethod
    def of(cls, key: NoiseKey, chains: Sequence[int]) -> Self:
        """Streams of a slice, and those that it shares with its neighbours."""
        keys = [_key(key.seed, key.purpose, n) for n in chains]
        bands = [
            (part, [(weight, cls.keyed(key.seed, name, chains)) for name, weight in fields])
            for part, fields in key.bands
        ]
        return cls(keys, bands=bands)

    @classmethod
    def pooled(cls, seed: int, chains: int) -> Self:
        """One stream for all chains: fast for the thousands of chains of a statistical test."""
        return cls([_key(seed, "pooled", 0)], pooled=chains)

    @property
    def chains(self) -> int:
        """Number of chains served."""
        return self._pooled or len(self._keys)

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
        count = math.prod(shape) * (self._pooled or 1)
        place = torch.device(device)
        if place.type == "cpu":
            drawn = _normal(words(self._keys, self._position, count))
        else:
            drawn = self._drawn_ahead(count, place)
        self._position += count
        return drawn.reshape(self.chains, *shape)

    def skip(self, count: int) -> None:
        """Go on after `count` more numbers of every stream."""
        self._position += count

    def _drawn_ahead(self, count: int, device: torch.device) -> Tensor:
        """(streams, count) of what was made before, or of the next that are made."""
        ahead = self._ahead
        if ahead is None or self._position + count > ahead.position + ahead.numbers.shape[1]:
            if ahead is None:
                signed = np.array(self._keys, np.uint64).view(np.int64)
                keys = torch.from_numpy(signed).to(device)
            else:
                keys = ahead.keys
            most = min(max(_STEPS_AHEAD * count, _LEAST_AHEAD), _MOST_AHEAD // len(keys))
            made = words_on(keys, self._position, max(count, most))
            ahead = self._ahead = _Ahead(keys, self._position, _normal(made))
        start = self._position - ahead.position
        return ahead.numbers[:, start : start + count]


class _Ahead(NamedTuple):
    """Numbers that are on the device before they are asked for."""

    keys: Tensor
    """(streams, 2) int64."""
    position: int
    """Of the first number in its stream."""
    numbers: Tensor
    """(streams, numbers) complex64."""


def _normal(drawn: Tensor) -> Tensor:
    """Complex normal numbers from words of 64 bits, by the inverse distribution of each half."""
    halves = drawn.contiguous().view(torch.int32).to(torch.float32)
    numbers = halves.mul_(_UNIT).erfinv_().mul_(math.sqrt(2))
    return torch.view_as_complex(numbers.unflatten(-1, (-1, 2)))


def _key(seed: int, purpose: str, chain: int) -> Key:
    digest = hashlib.blake2b(f"{seed}/{purpose}/{chain}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
