"""The generator behind all noise, against published vectors and numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.noise import NoiseStreams
from recon.philox import block, words, words_on

ONES = 2**64 - 1
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        (ONES, ONES, ONES, ONES),
        (ONES, ONES),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
    ),
]
"""Known answers of philox4x64 with ten rounds, from `kat_vectors` of Random123."""
KEYS = [(1, 2), (ONES, 2**63), (0x0123456789ABCDEF, 0xFEDCBA9876543210)]


def signed(*values: int) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array([each], np.uint64).view(np.int64)) for each in values]


@pytest.mark.parametrize(("counter", "key", "answer"), PUBLISHED)
def test_a_block_is_the_published_one(
    counter: tuple[int, ...], key: tuple[int, ...], answer: str
) -> None:
    found = [int(word) % 2**64 for word in block(signed(*counter), signed(*key))]
    assert found == [int(word, 16) for word in answer.split()]


def test_the_stream_begins_with_the_published_block() -> None:
    answer = [int(word, 16) for word in PUBLISHED[0][2].split()]
    assert [int(word) % 2**64 for word in words([(0, 0)], 0, 4)[0]] == answer


@pytest.mark.parametrize("start", [0, 1, 6, 4 * 2**32 - 3])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_numpy_and_tensor_operations_give_the_same_words(start: int, count: int) -> None:
    keys = torch.from_numpy(np.array(KEYS, np.uint64).view(np.int64))
    found = words_on(keys, start, count)
    assert found.shape == (3, count)
    assert torch.equal(found, words(KEYS, start, count))


def test_a_long_stream_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = torch.from_numpy(np.array(KEYS, np.uint64).view(np.int64))
    monkeypatch.setattr("recon.philox._AT_ONCE", 12)
    assert torch.equal(words_on(keys, 3, 100), words(KEYS, 3, 100))


def test_words_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = words(KEYS, 0, 40)
    assert torch.equal(torch.cat([words(KEYS, 0, 7), words(KEYS, 7, 33)], dim=1), whole)


def test_numbers_reach_far_and_are_finite() -> None:
    """A word at either end of its range is a number: 5.4 standard deviations out."""
    from recon.noise import _normal

    ends = torch.tensor([[2**31 - 1, -(2**31)]], dtype=torch.int32).view(torch.int64)
    number = _normal(ends)[0, 0]
    assert 5.2 < number.real < 5.6
    assert -5.6 < number.imag < -5.2


def test_the_streams_quantiles_are_normal() -> None:
    numbers = torch.view_as_real(NoiseStreams.keyed(3, "tails", (0,)).normal((500_000,))).flatten()
    for level in (-4.0, -2.5, -1.0, 0.0, 1.0, 2.5, 4.0):
        share = float(torch.special.ndtr(torch.tensor(level, dtype=torch.float64)))
        error = (share * (1 - share) / len(numbers)) ** 0.5
        assert abs(float((numbers < level).double().mean()) - share) < 5 * error
