import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recon.prior import (
    DenseGaussianPrior,
    GaussianMixturePrior,
    GaussianPrior,
    Prior,
    RingPrior,
    score,
)
from tests.contracts import complex_normal

SHAPES = [(3, 4), (4, 3), (3, 3), (1, 5), (4, 1), (1, 1)]
SIGMAS = (0.05, 0.4, 3.0)


def dft_matrix(shape: tuple[int, int]) -> Tensor:
    """Centred unitary transform of row-major pixels, from its definition."""
    factors = []
    for size in shape:
        place = torch.arange(size, dtype=torch.float64) - size // 2
        factors.append(
            torch.exp(-2j * torch.pi * torch.outer(place, place) / size) / math.sqrt(size)
        )
    return torch.kron(*factors)


def gaussian_fourier(shape: tuple[int, int]) -> GaussianPrior:
    spectrum = complex_normal(shape, 1, torch.complex128).abs().square() + 0.1
    return GaussianPrior(complex_normal(shape, 2, torch.complex128), spectrum)


def gaussian_dense(shape: tuple[int, int]) -> DenseGaussianPrior:
    """Covariance complex Hermitian, with correlations as large as the variances."""
    pixels = math.prod(shape)
    square = complex_normal((pixels, max(pixels // 2, 1)), 3, torch.complex128)
    covariance = square @ square.mH + 0.1 * torch.eye(pixels)
    return DenseGaussianPrior(complex_normal(shape, 4, torch.complex128), covariance)


def mixture(shape: tuple[int, int]) -> GaussianMixturePrior:
    return GaussianMixturePrior(
        complex_normal((3, *shape), 5, torch.complex128),
        torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64),
        torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
    )


def ring(shape: tuple[int, int]) -> RingPrior:
    return RingPrior(0.3)


PRIORS: dict[str, Callable[[tuple[int, int]], Prior]] = {
    "gaussian": gaussian_fourier,
    "dense": gaussian_dense,
    "mixture": mixture,
    "ring": ring,
}


def dense_log_density(offset: Tensor, covariance: Tensor) -> Tensor:
    """log N_C(offset; 0, covariance per real component), up to what does not depend on offset."""
    flat = offset.flatten()
    return -(flat.conj() @ torch.linalg.solve(covariance, flat)).real / 2


def log_density(name: str, prior: Prior, image: Tensor, sigma: float) -> Tensor:
    """Log density of the prior smoothed by sigma at one image, written out once more."""
    pixels = image.numel()
    noise = sigma**2 * torch.eye(pixels, dtype=torch.complex128)
    if isinstance(prior, GaussianPrior):
        transform = dft_matrix((image.shape[0], image.shape[1]))
        spectrum = torch.diag(prior.spectrum.flatten().to(torch.complex128))
        covariance = transform.mH @ spectrum @ transform
        return dense_log_density(image - prior.mean, covariance + noise)
    if isinstance(prior, DenseGaussianPrior):
        return dense_log_density(image - prior.mean, prior.covariance + noise)
    if isinstance(prior, GaussianMixturePrior):
        total = prior.stds**2 + sigma**2
        distance = (image - prior.means).abs().square().sum(dim=(-2, -1))
        density = prior.weights * (2 * torch.pi * total) ** -pixels * (-distance / 2 / total).exp()
        return density.sum().log()
    assert isinstance(prior, RingPrior)
    # The circle as 4000 point masses; no Bessel function.
    angle = torch.arange(4000, dtype=torch.float64) * 2 * torch.pi / 4000
    circle = torch.polar(torch.ones_like(angle), angle)
    total = prior.width**2 + sigma**2
    exponent = -(image.flatten()[:, None] - circle).abs().square() / (2 * total)
    return torch.logsumexp(exponent, dim=1).sum()


def gradient(function: Callable[[Tensor], Tensor], image: Tensor, step: float = 1e-4) -> Tensor:
    """Central differences along the real and the imaginary part of every pixel."""
    result = torch.zeros_like(image)
    for index in range(image.numel()):
        for direction in (1.0, 1j):
            shift = torch.zeros_like(image).flatten()
            shift[index] = step * direction
            shift = shift.reshape(image.shape)
            slope = (function(image + shift) - function(image - shift)) / (2 * step)
            result.view(-1)[index] += slope * direction
    return result


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PRIORS)
def test_score_is_the_gradient_of_the_log_density(
    name: str, shape: tuple[int, int], sigma: float
) -> None:
    prior = PRIORS[name](shape)
    image = complex_normal(shape, 6, torch.complex128)
    expected = gradient(lambda x: log_density(name, prior, x, sigma), image)
    found = score(prior, image[None], sigma)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    denoised = prior.denoise(image[None], sigma)[0]
    torch.testing.assert_close(denoised, image + sigma**2 * found)


@pytest.mark.parametrize("name", PRIORS)
def test_shapes_and_types_are_kept_and_batches_are_one_by_one(name: str) -> None:
    shape = (4, 3)
    exact = PRIORS[name](shape)
    single: Prior
    match exact:
        case GaussianPrior():
            single = GaussianPrior(exact.mean.to(torch.complex64), exact.spectrum.float())
        case DenseGaussianPrior():
            single = DenseGaussianPrior(
                exact.mean.to(torch.complex64), exact.covariance.to(torch.complex64)
            )
        case GaussianMixturePrior():
            single = GaussianMixturePrior(
                exact.means.to(torch.complex64), exact.stds.float(), exact.weights.float()
            )
        case _:
            single = exact
    images = complex_normal((5, *shape), 7)
    for sigma in SIGMAS:
        together = single.denoise(images, sigma)
        assert together.shape == images.shape
        assert together.dtype == torch.complex64
        for k in range(5):
            torch.testing.assert_close(
                together[k : k + 1], single.denoise(images[k : k + 1], sigma)
            )
        double = exact.denoise(images.to(torch.complex128), sigma).to(torch.complex64)
        torch.testing.assert_close(together, double, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_fourier_prior_is_the_dense_one_with_its_covariance(shape: tuple[int, int]) -> None:
    fourier = gaussian_fourier(shape)
    transform = dft_matrix(shape)
    covariance = transform.mH @ torch.diag(fourier.spectrum.flatten().to(transform.dtype))
    dense = DenseGaussianPrior(fourier.mean, covariance @ transform)
    noisy = complex_normal((3, *shape), 8, torch.complex128)
    for sigma in SIGMAS:
        torch.testing.assert_close(
            fourier.denoise(noisy, sigma), dense.denoise(noisy, sigma), atol=1e-6, rtol=1e-6
        )


def test_dense_prior_is_the_conditional_mean_of_the_joint_gaussian() -> None:
    """E[x | y] = mean + C (C + s^2)^-1 (y - mean), also as an average over draws."""
    shape, sigma, draws = (2, 2), 0.7, 200_000
    prior = gaussian_dense(shape)
    covariance = prior.covariance
    # The covariance has phases: its transpose is another one.
    assert (covariance - covariance.mT).abs().max() > 0.3
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(4))
    noisy = complex_normal((2, *shape), 9, torch.complex128)
    expected = prior.mean.flatten() + ((noisy - prior.mean).flatten(1) @ gain.mT)
    torch.testing.assert_close(
        prior.denoise(noisy, sigma).flatten(1), expected, atol=1e-6, rtol=1e-6
    )
    # What is left after denoising is unrelated to the noisy image: within 5 standard errors.
    factor = torch.linalg.cholesky(covariance)
    white = complex_normal((2, draws, 4), 10, torch.complex128)
    clean = prior.mean + (white[0] @ factor.mT).reshape(-1, *shape)
    observed = clean + sigma * white[1].reshape(-1, *shape)
    error = (clean - prior.denoise(observed, sigma)).flatten(1)
    centred = (observed - prior.mean).flatten(1)
    covariances = error.mT @ centred.conj() / draws
    spread = torch.outer(error.abs().square().mean(0), centred.abs().square().mean(0)).sqrt()
    assert (covariances.abs() / spread * draws**0.5).max() < 5


def plane(half_width: float, points: int) -> Tensor:
    """Grid over the complex plane."""
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    return torch.complex(*torch.meshgrid(axis, axis, indexing="ij"))


@pytest.mark.parametrize("sigma", [0.15, 0.5, 2.0])
def test_denoisers_of_one_pixel_are_the_quadrature_of_bayes(sigma: float) -> None:
    """E[x | y] = sum x p(x) N(y; x, s^2) / sum p(x) N(y; x, s^2) over a grid of the plane."""
    grid = plane(5, 601)
    for name in ("mixture", "ring"):
        prior = PRIORS[name]((1, 1))
        if isinstance(prior, GaussianMixturePrior):
            distance = (grid - prior.means).abs().square()
            variance = prior.stds[:, None, None] ** 2
            weight = prior.weights[:, None, None] / variance
            density = (weight * (-distance / (2 * variance)).exp()).sum(dim=0)
        else:
            angle = torch.arange(90, dtype=torch.float64) * 2 * torch.pi / 90
            density = torch.zeros_like(grid.real)
            for point in torch.polar(torch.ones_like(angle), angle):
                density += (-(grid - point).abs().square() / (2 * 0.3**2)).exp()
        for noisy in (0.1 + 0.2j, -1.3 + 0.4j, 0.9j):
            weight = density * (-(grid - noisy).abs().square() / (2 * sigma**2)).exp()
            expected = (grid * weight).sum() / weight.sum()
            found = prior.denoise(torch.tensor([[[noisy]]], dtype=torch.complex128), sigma)
            assert abs(complex(found) - complex(expected)) < 1e-4


def hessian_of_the_ring(radius: float, sigma: float, width: float) -> tuple[float, float]:
    """Radial and tangential eigenvalue at (radius, 0), by central differences of the score."""
    prior, step = RingPrior(width), 1e-4
    ends = torch.tensor(
        [radius + step, radius - step, radius + 1j * step, radius - 1j * step],
        dtype=torch.complex128,
    )
    outward, inward, up, down = score(prior, ends[:, None, None], sigma).flatten()
    assert abs((outward - inward).imag) < 1e-8
    assert abs((up - down).real) < 1e-6 * max(abs((up - down).imag), 1)
    return (
        float((outward - inward).real) / (2 * step),
        float((up - down).imag) / (2 * step),
    )


# Two ways to a total width of 0.1: noise may be most of it or next to nothing.
@pytest.mark.parametrize(("width", "sigma"), [(0.06, 0.08), (math.sqrt(0.01 - 1e-6), 1e-3)])
def test_ring_has_the_curvature_of_the_paper(width: float, sigma: float) -> None:
    """Largest eigenvalues of Xun, Gupta and Price's ring with w = 0.1."""
    centre_radial, centre_tangential = hessian_of_the_ring(0, sigma, width)
    # Differences of step 1e-4 are off by 2.5e-4 of the curvature here.
    assert centre_radial == pytest.approx(4900, rel=1e-3)
    assert centre_tangential == pytest.approx(4900, rel=1e-3)
    for radius, largest in ((0.5, 97.99), (1.0, -0.501)):
        radial, tangential = hessian_of_the_ring(radius, sigma, width)
        assert tangential == pytest.approx(largest, abs=0.006 if radius < 1 else 6e-4)
        assert radial == pytest.approx(-100, abs=2.5)
        assert max(radial, tangential) == tangential


def test_ring_is_defined_at_its_centre_and_far_out() -> None:
    images = torch.tensor([0, 1e-20, 1e-6, 50, -400j], dtype=torch.complex64)[:, None, None]
    denoised = RingPrior(0.05).denoise(images, 0.02)
    assert torch.isfinite(torch.view_as_real(denoised)).all()
    assert not denoised[0].any()
    # Far from the circle the noise is pulled back radially: 50 - s^2 / t (50 - 1).
    share = 0.02**2 / (0.05**2 + 0.02**2)
    assert complex(denoised[3]) == pytest.approx(50 - share * 49, rel=1e-4)
    assert complex(denoised[4]) == pytest.approx(-1j * (400 - share * 399), rel=1e-4)
