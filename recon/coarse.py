"""Coarse reconstructions, each with an estimate of its error that sizes the localization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recon.errors import ScanError
from recon.noise import NoiseStreams
from recon.operators import CartesianSense, FourierOperator, fft2c, grid_radius, ifft2c
from recon.sampler import InverseProblem
from recon.solve import conjugate_gradient

_RINGS = 12
_INNERMOST = 0.02
"""Of the rings of k-space to which the spectrum is fitted, cycles per voxel."""
_L1_WEIGHT = 0.5
"""Regularisation of L1-wavelet images over the noise level."""


class CoarseMethod(StrEnum):
    """How the first reconstruction is made."""

    ZERO_FILLED = "zero-filled"
    CG_SENSE = "cg-sense"
    L1_WAVELET = "l1-wavelet"


@dataclass(frozen=True)
class Coarse:
    """A first reconstruction and how wrong it may be."""

    image: Tensor
    """(rows, columns) complex64."""
    error: Tensor
    """(rows, columns) estimated error std per real component."""

    def localization_sigma(self) -> float:
        """2.5 times the root-mean-square error where the image is: wide enough to hold the truth.

        Two to three posterior standard deviations keep the anchor's pull below a quarter.
        """
        magnitude = self.image.abs()
        inside = magnitude > 0.1 * torch.quantile(magnitude.flatten()[:1_000_000], 0.99)
        return 2.5 * float(_mean_where(inside, self.error.square()).sqrt())


def _mean_where(there: Tensor, values: Tensor) -> Tensor:
    """Mean of real values where a mask of their shape is set; of all where it is nowhere."""
    count = there.sum()
    return torch.where(count > 0, (values * there).sum() / count.clamp_min(1), values.mean())


def radial_spectrum(problem: InverseProblem, shape: torch.Size | None = None) -> Tensor:
    """Power per real component of the image's Fourier coefficients, fitted to the acquired samples.

    A power law in the distance from the centre of k-space, above the noise; (rows, columns) of the
    field of view, or on the Fourier grid of another shape.
    """
    operator, measured = _fourier(problem), problem.measurement
    mask, radius = operator.mask, operator.radius
    shape = operator.sampled.shape if shape is None else shape
    # The coils see the image blurred by their maps, and their powers add up to the image's.
    power = measured.abs().square().sum(dim=0) / 2 - len(measured) * problem.noise_std**2
    share = torch.arange(_RINGS + 1, device=mask.device) / _RINGS
    edges = _INNERMOST + ((radius * mask).max() - _INNERMOST) * share
    # One matrix product, and one copy to the host: on a GPU every look at a number waits.
    rings = [mask & (radius >= low) & (radius < high) for low, high in pairwise(edges)]
    inside = torch.stack(rings).flatten(1).to(power.dtype)
    sums = torch.stack([inside @ power.flatten(), inside.sum(dim=1), edges[:-1], edges[1:]])
    log_radius, log_power = [], []
    for total, count, low, high in sums.T.tolist():
        mean = total / count if count else 0.0
        if mean > 0.1 * problem.noise_std**2:
            log_radius.append(math.log((low + high) / 2))
            log_power.append(math.log(mean))
    grid = grid_radius(shape, mask.device)
    if len(log_radius) < 2:
        return torch.full_like(grid, problem.noise_std**2)
    slope, level = np.polyfit(log_radius, log_power, 1)
    slope = min(float(slope), -1.0)
    return torch.exp(float(level) + slope * torch.log(grid.clamp_min(0.5 / max(shape))))


def _fourier(problem: InverseProblem) -> FourierOperator:
    if not isinstance(problem.operator, FourierOperator):
        raise TypeError("the coarse reconstruction needs a Fourier operator")
    return problem.operator


def cg_sense(problem: InverseProblem, spectrum: Tensor) -> Tensor:
    """SENSE with a Tikhonov weight that expects the signal power of the unmeasured samples."""
    power = float(_mean_where(~_fourier(problem).sampled, spectrum))
    precision = problem.noise_std**-2
    rhs = precision * problem.backprojection
    return problem.solver.precondition(rhs[None], None, precision, 1 / power)[0]


def gaussian_model_draws(problem: InverseProblem, spectrum: Tensor, noise: NoiseStreams) -> Tensor:
    """Draws (chains, rows, columns) from the posterior under a stationary Gaussian image model.

    Crude, but it knows how much signal the scan has where it did not measure. Exact draws by
    perturbing the right-hand side of H x = A^H y / eta^2, H = A^H A / eta^2 + 1 / spectrum, and
    one iterative solve, in coordinates where H is near the identity.
    """
    operator, precision = _fourier(problem), problem.noise_std**-2
    shape, device = spectrum.shape, problem.measurement.device
    measured = operator.adjoint(noise.normal(problem.measurement.shape, device))
    imagined = spectrum.rsqrt() * fft2c(noise.normal(shape, device))
    rhs = fft2c(precision * problem.backprojection + math.sqrt(precision) * measured) + imagined
    root = (1 / spectrum + precision * _measured_share(operator)).rsqrt()

    def apply(white: Tensor) -> Tensor:
        """Root H root on Fourier coefficients."""
        seen = root * white
        return root * (precision * fft2c(problem.solver.normal(ifft2c(seen))) + seen / spectrum)

    # An error estimate: a thousandth of it more or less does not count.
    return ifft2c(root * conjugate_gradient(apply, root * rhs, tolerance=1e-3).value)


def _measured_share(operator: FourierOperator) -> Tensor:
    """Diagonal of F A^H A F^H, the samples spread by the coil maps' spectra; of the image's shape.

    With an overlap the mean of it: it only has to be near.
    """
    if operator.overlap is not None:
        energy = operator.coil_maps.abs().square().sum(dim=0).mean()
        return operator.sampled.float().mean() * energy.expand(operator.coil_maps.shape[-2:])
    blur = torch.fft.fft2(operator.coil_maps, norm="forward").abs().square().sum(dim=0)
    sampled = torch.fft.ifftshift(operator.sampled).to(blur.dtype)
    share = torch.fft.ifft2(torch.fft.fft2(sampled) * torch.fft.fft2(blur).conj()).real
    return torch.fft.fftshift(share).clamp_min(0)


def _smooth(power: Tensor, width: int = 9) -> Tensor:
    return functional.avg_pool2d(
        power[None, None], width, stride=1, padding=width // 2, count_include_pad=False
    )[0, 0]


def l1_wavelet(problem: InverseProblem, regularisation: float, iterations: int = 60) -> Tensor:
    """Sigpy's L1-wavelet SENSE reconstruction (FISTA), (rows, columns)."""
    operator = problem.operator
    if not isinstance(operator, CartesianSense):
        raise ScanError(
            "l1-wavelet-cartesian",
            "the L1-wavelet start is for Cartesian scans; leave --coarse at cg-sense",
        )
    maps, overlap = operator.coil_maps, operator.overlap
    if overlap is not None:
        maps = overlap.split(maps)[0]  # sigpy takes one set of maps
    import sigpy  # lazy: a second, for one step
    import sigpy.mri.app as mri_app  # lazy: a second, for one step

    app = mri_app.L1WaveletRecon(
        problem.measurement.cpu().numpy(),
        maps.cpu().numpy(),
        regularisation,
        weights=operator.mask.cpu().numpy().astype(np.float32),
        device=sigpy.cpu_device,
        max_iter=iterations,
        show_pbar=False,
    )
    image = torch.from_numpy(np.asarray(app.run(), dtype=np.complex64)).to(maps.device)
    return image if overlap is None else overlap.padded(image)


def classical_image(problem: InverseProblem) -> Tensor | None:
    """L1-wavelet image at the weight that a coarse image has; None off the grid, where it is not.

    What is known without a learned prior: it invents nothing that a wavelet basis would not.
    """
    if not isinstance(problem.operator, CartesianSense):
        return None
    return l1_wavelet(problem, _L1_WEIGHT * problem.noise_std)


def coarse_reconstruction(
    problem: InverseProblem, method: CoarseMethod, noise: NoiseStreams
) -> Coarse:
    """The chosen coarse image, with its error from Gaussian-model draws.

    `noise` needs a few chains; the error is their spread about the coarse image, smoothed.
    """
    spectrum = radial_spectrum(problem)
    linear = cg_sense(problem, spectrum)
    if method is CoarseMethod.ZERO_FILLED:
        image = _fourier(problem).rough_inverse(problem.measurement)
    elif method is CoarseMethod.CG_SENSE:
        image = linear
    else:
        image = l1_wavelet(problem, _L1_WEIGHT * problem.noise_std)
    if image.shape != spectrum.shape:  # with a strip for what folds over the edges
        spectrum = radial_spectrum(problem, image.shape)
    draws = gaussian_model_draws(problem, spectrum, noise)
    spread = (draws - image).abs().square().mean(dim=0) / 2
    return Coarse(image, _smooth(spread).sqrt())
