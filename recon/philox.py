"""Philox 4x64, a counter-based generator: the n-th number of a stream is a function of n.

Salmon, Moraes, Dror and Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", with ten
rounds. On a CPU numpy's is used; on other devices the same words come from tensor operations, so
that nothing is copied there and a seed means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 10
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_LOW = 0xFFFFFFFF
_PER_BLOCK = 4
"""Words that one value of the counter gives."""
_AT_ONCE = 1 << 20
"""Blocks whose intermediate words (a hundred bytes each) are held at a time."""

Key = tuple[int, int]
"""Two unsigned 64-bit words."""


def words(keys: Sequence[Key], start: int, count: int) -> Tensor:
    """(keys, count) int64 on the CPU: words `start` and following of each key's stream."""
    first, left_out = divmod(start, _PER_BLOCK)
    found = np.empty((len(keys), count), np.uint64)
    for row, key in zip(found, keys, strict=True):
        # numpy counts up before it makes a block.
        generator = np.random.Philox(key=np.array(key, np.uint64), counter=(first - 1) % 2**256)
        row[:] = generator.random_raw(left_out + count)[left_out:]
    return torch.from_numpy(found.view(np.int64))


def words_on(keys: Tensor, start: int, count: int) -> Tensor:
    """The same from keys (keys, 2) int64 on any device, where the words are left."""
    first, left_out = divmod(start, _PER_BLOCK)
    blocks = -(-(left_out + count) // _PER_BLOCK)
    at_once = max(1, _AT_ONCE // len(keys))
    parts = []
    for begin in range(first, first + blocks, at_once):
        end = min(begin + at_once, first + blocks)
        place = torch.arange(begin, end, device=keys.device)
        counter = (place.expand(len(keys), -1), *torch.zeros_like(keys[:, :1]).expand(3, -1, -1))
        made = block(counter, (keys[:, :1], keys[:, 1:]))
        parts.append(torch.stack(torch.broadcast_tensors(*made), dim=-1).flatten(1))
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return whole[:, left_out : left_out + count]


def block(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Four words from a counter of four and a key of two; int64 tensors that broadcast.

    Words are the bits of unsigned numbers: sums and products wrap alike.
    """
    one, two, three, four = counter
    left, right = key
    for turn in range(_ROUNDS):
        if turn:
            left, right = left + _signed(_KEY_STEPS[0]), right + _signed(_KEY_STEPS[1])
        high_one, low_one = _product(one, _MULTIPLIERS[0])
        high_three, low_three = _product(three, _MULTIPLIERS[1])
        one, two, three, four = (
            high_three ^ two ^ left,
            low_three,
            high_one ^ four ^ right,
            low_one,
        )
    return one, two, three, four


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 64 bits of the product of unsigned numbers."""
    low, high = word & _LOW, _upper(word)
    factor_low, factor_high = factor & _LOW, factor >> 32
    middle = high * factor_low + _upper(low * factor_low)
    other = low * factor_high + (middle & _LOW)
    return high * factor_high + _upper(middle) + _upper(other), word * _signed(factor)


def _upper(word: Tensor) -> Tensor:
    """The upper 32 bits; the shift alone would repeat the sign."""
    return (word >> 32) & _LOW


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
