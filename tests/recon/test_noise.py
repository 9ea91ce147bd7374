import pytest
import torch
from torch import Tensor

from recon.noise import Band, NoiseKey, NoiseStreams
from recon.operators import fft2c

COUNT = 100_000


def test_a_chain_gets_its_numbers_whatever_the_batch_and_the_order() -> None:
    together = NoiseStreams.keyed(5, "slice-0", range(4))
    reversed_order = NoiseStreams.keyed(5, "slice-0", (3, 1))
    alone = [NoiseStreams.keyed(5, "slice-0", (n,)) for n in range(4)]
    # A sequence of draws, so that states and not only first numbers are compared.
    for shape in ((3, 4), (7,), (2, 3, 5)):
        drawn = together.normal(shape)
        assert drawn.shape == (4, *shape)
        assert drawn.dtype == torch.complex64
        assert torch.equal(reversed_order.normal(shape), drawn[[3, 1]])
        for n, stream in enumerate(alone):
            assert torch.equal(stream.normal(shape)[0], drawn[n])


def test_everything_in_the_key_counts() -> None:
    keys = [
        (seed, purpose, chain)
        for seed in (0, 1, 11)
        for purpose in ("slice-0", "slice-1", "slice-0/check", "1/slice-0", "")
        for chain in (0, 1, 11)
    ]
    first = [NoiseStreams.keyed(s, p, (c,)).normal((2,))[0] for s, p, c in keys]
    values = {complex(each[0]) for each in first}
    assert len(values) == len(keys)


def test_global_generator_is_not_touched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = NoiseStreams.keyed(0, "run", (0,)).normal((5,))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(NoiseStreams.keyed(0, "run", (0,)).normal((5,)), first)


def test_unit_variance_per_real_component() -> None:
    """Moments of 100000 numbers each, within 5 standard errors."""
    keyed = NoiseStreams.keyed(8, "moments", (0, 1)).normal((COUNT,))
    pooled = NoiseStreams.pooled(8, 2).normal((COUNT,))
    for numbers in (*keyed, *pooled):
        for part in (numbers.real, numbers.imag):
            assert abs(float(part.mean())) < 5 / COUNT**0.5
            assert abs(float(part.var()) - 1) < 5 * (2 / COUNT) ** 0.5
        assert abs(float((numbers.real * numbers.imag).mean())) < 5 / COUNT**0.5


def test_chains_and_purposes_are_independent() -> None:
    chains = NoiseStreams.keyed(8, "independence", (0, 1)).normal((COUNT,))
    other = NoiseStreams.keyed(8, "independence-2", (0,)).normal((COUNT,))
    for left, right in ((chains[0], chains[1]), (chains[0], other[0])):
        # |mean of n conj(m)| has a standard error of 2 / sqrt(count).
        assert float((left * right.conj()).mean().abs()) < 5 * 2 / COUNT**0.5


def test_number_of_chains() -> None:
    assert NoiseStreams.keyed(0, "run", (4, 2, 9)).chains == 3
    pooled = NoiseStreams.pooled(0, 1000)
    assert pooled.chains == 1000
    assert pooled.normal((2, 3)).shape == (1000, 2, 3)


def shared_key(purpose: str, near: str = "near", far: str = "far") -> NoiseKey:
    """Half of k-space from one field, the finer half from a mixture of two."""
    fine = Band(1.0, ((near, 0.6), ("between", 0.8)))
    return NoiseKey(3, purpose, (fine, Band(0.5, ((far, 1.0),))))


def test_noise_that_slices_share_is_white_in_every_slice() -> None:
    """Covariance and relation of 6 x 5 pixels from 20000 chains, within 5 standard errors."""
    draws, shape = 4000, (6, 5)
    streams = NoiseStreams.of(shared_key("slice-0"), range(draws))
    drawn = torch.cat([streams.image(shape).flatten(1) for _ in range(5)]).to(torch.complex128)
    error = 2 / len(drawn) ** 0.5
    covariance = drawn.mT @ drawn.conj() / len(drawn)
    assert (covariance - 2 * torch.eye(30)).abs().max() < 5 * error
    assert (drawn.mT @ drawn / len(drawn)).abs().max() < 5 * 2**0.5 * error
    # One step after another is independent, too.
    first, second = streams.image(shape), streams.image(shape)
    assert float((first * second.conj()).mean().abs()) < 5 * 2 / first.numel() ** 0.5


def test_slices_share_what_their_keys_say_and_nothing_of_the_receivers() -> None:
    shape, chains = (32, 32), range(20)
    left, right, apart = (
        NoiseStreams.of(key, chains)
        for key in (shared_key("a"), shared_key("b", near="other"), shared_key("c", far="other"))
    )
    a, b, c = (fft2c(streams.image(shape)) for streams in (left, right, apart))
    inner = torch.zeros(shape, dtype=torch.bool)
    inner[8:24, 8:24] = True

    def correlation(one: Tensor, two: Tensor, where: Tensor) -> float:
        return float((one * two.conj())[:, where].mean().real) / 2

    assert correlation(a, b, inner) == pytest.approx(1, abs=0.05)
    assert correlation(a, b, ~inner) == pytest.approx(0.64, abs=0.05)
    assert correlation(a, c, inner) == pytest.approx(0, abs=0.05)
    assert correlation(a, c, ~inner) == pytest.approx(1, abs=0.05)
    own = [streams.normal(shape) for streams in (left, right)]
    assert abs(float((own[0] * own[1].conj()).mean().real)) < 0.1


def test_shared_noise_is_a_chains_own_whatever_the_batch() -> None:
    together = NoiseStreams.of(shared_key("slice-0"), range(3))
    alone = NoiseStreams.of(shared_key("slice-0"), (2,))
    for _ in range(2):
        assert torch.equal(together.normal((4,))[2], alone.normal((4,))[0])
        torch.testing.assert_close(together.image((7, 8))[2], alone.image((7, 8))[0])
