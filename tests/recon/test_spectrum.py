import numpy as np
import torch

from recon.noise import NoiseStreams
from recon.operators import CartesianSense, fft2c, grid_radius, ifft2c
from recon.phantom import receiver_maps
from recon.prior import StationaryPrior
from recon.sampler import InverseProblem
from recon.spectrum import fit_spectrum, ring_powers, ring_radii

SIZE = 32
NOISE = 0.05
RADII = ring_radii(SIZE)
TRUE = StationaryPrior(RADII, tuple(0.18 if 0.15 < r < 0.35 else 0.02 for r in RADII))
"""Nothing like the power law that the fit begins with."""


def problems(coils: int, count: int) -> list[InverseProblem]:
    """Images of the true spectrum, each seen through a mask of its own."""
    made = []
    shape = torch.Size((SIZE, SIZE))
    maps = torch.from_numpy(receiver_maps(coils, SIZE, SIZE))
    maps = maps / maps.abs().square().sum(dim=0).sqrt()
    for seed in range(count):
        noise = NoiseStreams.keyed(seed, "truth", (0,))
        image = ifft2c(TRUE.spectrum(shape).sqrt() * noise.normal(shape))[0]
        columns = np.random.default_rng(seed).random(SIZE) < 1 / 3
        columns[SIZE // 2 - 2 : SIZE // 2 + 2] = True
        mask = torch.from_numpy(np.broadcast_to(columns, shape).copy())
        operator = CartesianSense(maps, mask)
        measured = operator.forward(image) + NOISE * mask * noise.normal((coils, *shape))[0]
        made.append(InverseProblem(operator, operator.solver(), measured, NOISE))
    return made


def error(found: StationaryPrior) -> float:
    """Largest factor between found and true power, weighed by what a ring's count allows."""
    _, counts = ring_powers(torch.zeros(1, SIZE, SIZE, dtype=torch.complex64), TRUE)
    ratio = np.log(np.array(found.powers) / np.array(TRUE.powers))[counts.numpy() >= 20]
    return float(np.abs(ratio).max())


def test_the_spectrum_of_undersampled_scans_is_found() -> None:
    made = problems(4, 20)
    start, *_, found = fit_spectrum(lambda: iter(made), SIZE, 8, seed=0)
    assert error(found) < 0.15 < 1 < error(start)


def test_a_round_is_the_closed_form_where_there_is_one() -> None:
    """One coil, map one: the posterior is diagonal, E |x|^2 is known without drawing."""
    made = problems(1, 12)
    made = [
        InverseProblem(op := CartesianSense(torch.ones(1, SIZE, SIZE) + 0j, p.operator.mask),
                       op.solver(), p.measurement, NOISE)
        for p in made
    ]  # fmt: skip
    start, drawn = fit_spectrum(lambda: iter(made), SIZE, 1, seed=0)
    prior = start.spectrum(torch.Size((SIZE, SIZE)))
    power, count = torch.zeros(len(RADII)), torch.zeros(len(RADII))
    for problem in made:
        gain = torch.where(problem.operator.mask, prior / (prior + NOISE**2), torch.tensor(0.0))
        second = gain**2 * problem.measurement[0].abs().square() / 2 + prior * (1 - gain)
        found, counted = ring_powers(ifft2c(second.sqrt() * (2**0.5) + 0j)[None], TRUE)
        power, count = power + found, count + counted
    ring = count > 0
    exact = (power / count)[ring].numpy()
    # Of n coefficients the drawn mean has a relative error of about n^-1/2.
    allowed = 4 * (count[ring].numpy() * 2) ** -0.5
    assert (np.abs(np.array(drawn.powers)[ring.numpy()] / exact - 1) < allowed).all()


def test_any_size_has_the_same_spectrum() -> None:
    for shape in ((32, 32), (24, 40), (33, 17)):
        spectrum = TRUE.spectrum(torch.Size(shape))
        assert spectrum.shape == shape
        radius = grid_radius(torch.Size(shape), torch.device("cpu"))
        assert (spectrum[(radius > 0.17) & (radius < 0.3)] == np.float32(0.18)).all()
        assert (spectrum[(radius < 0.13) | (radius > 0.4)] == np.float32(0.02)).all()


def test_it_denoises_as_a_wiener_filter() -> None:
    shape = torch.Size((SIZE, SIZE))
    image = NoiseStreams.keyed(0, "image", (0, 1)).normal(shape)
    spectrum = TRUE.spectrum(shape)
    expected = spectrum / (spectrum + 0.04) * fft2c(image)
    torch.testing.assert_close(fft2c(TRUE.denoise(image, 0.2)), expected, rtol=1e-4, atol=1e-5)
