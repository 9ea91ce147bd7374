import torch

from recon.noise import NoiseStreams

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
