"""One posterior of a volume whose slices were encoded together: a scan with two phase encodings.

Along its readout such a scan is complete, so that one Fourier transform decouples it: every readout
position is a slice with its own measurement, coil maps and Gaussian solves, and the likelihood of
the volume is exactly the product of theirs. What couples them is the prior, the denoiser of slices
in planes of all three directions, another one at each step (after TPDM, Lee et al. 2023, and
Krainovic and Heckel, arXiv 2412.18584). On average over the steps its score is the mean of three,

    score(x) = 1/3 sum over directions of (D_direction(x, sigma) - x) / sigma^2,

the score of the geometric mean of three priors, each of which knows the planes of one direction and
takes them to be independent. A step costs what it costs for the slices by themselves.

That mean is too modest: what one direction leaves open the others know, and it errs less than it
expects to (found over expected squared error, E |D - x|^2 over E Re <D - x, sigma z>: 0.7 to 0.8 on
heads where a slice's is 0.9). So it is raised to a power above one (`recon.power`), where found and
expected error agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.operators import MeasurementOperator
from recon.power import Raised
from recon.prior import Prior
from recon.sampler import InverseProblem
from recon.solve import GaussianSolver

ISOTROPIC = 1.25
"""Most that sides of voxels may differ by in planes that a prior of slices can judge."""
POWER = (1.0, 1.05, 1.15)
"""Of the geometric mean of the priors of one, two and three directions; see the module's docstring.

Found and expected error agree at 1.20 for a synthetic head (three directions, noise 0.03 and 0.1)
and at 1.13 for a scanned one (0.03)."""
_PLANES_AT_ONCE = 64


@final
@dataclass(frozen=True)
class StackedOperator(MeasurementOperator):
    """A measurement of every slice of a volume; images are (..., slices, rows, columns)."""

    slices: tuple[MeasurementOperator, ...]
    """Alike in the shapes of images and of measurements."""

    def forward(self, image: Tensor) -> Tensor:
        return self._each(lambda one, x: one.forward(x), image, 2)

    def adjoint(self, measurement: Tensor) -> Tensor:
        inner = len(self.slices[0].measurement_shape(torch.Size((1, 1))))
        return self._each(lambda one, k: one.adjoint(k), measurement, inner)

    def normal(self, image: Tensor) -> Tensor:
        return self._each(lambda one, x: one.normal(x), image, 2)

    def solver(self) -> StackedSolver:
        """Slice by slice, exact where its own is."""
        return StackedSolver(tuple(one.solver() for one in self.slices))

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        one = self.slices[0].measurement_shape(torch.Size(image_shape[-2:]))
        return (*image_shape[:-2], *one)

    @property
    def measured_components(self) -> int:
        return sum(one.measured_components for one in self.slices)

    def _each(
        self, act: Callable[[MeasurementOperator, Tensor], Tensor], batch: Tensor, inner: int
    ) -> Tensor:
        """`act` slice by slice; the slices' axis lies before the last `inner` ones."""
        axis = batch.dim() - inner - 1
        parts = batch.unbind(axis)
        return torch.stack([act(*pair) for pair in zip(self.slices, parts, strict=True)], axis)


@final
@dataclass(frozen=True)
class StackedSolver(GaussianSolver):
    """The solvers of the slices of a volume; images are (batch, slices, rows, columns)."""

    slices: tuple[GaussianSolver, ...]

    def normal(self, image: Tensor) -> Tensor:
        return self._each(lambda one, x: one.normal(x), image)

    def white(self, noise: NoiseStreams, image: Tensor) -> Tensor:
        """(chains, slices, …): that of one slice after the other."""
        return self._each(lambda one, x: one.white(noise, x), image)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        if white is None:
            return self._each(lambda one, x: one.precondition(x, None, data_precision, shift), rhs)
        return self._each(
            lambda one, x, w: one.precondition(x, w, data_precision, shift), rhs, white
        )

    def relaxed(
        self,
        image: Tensor,
        drift: Tensor,
        pull: float,
        white: Tensor,
        data_precision: float,
        shift: float,
    ) -> Tensor:
        return self._each(
            lambda one, x, d, w: one.relaxed(x, d, pull, w, data_precision, shift),
            image,
            drift,
            white,
        )

    def _each(self, act: Callable[..., Tensor], *batches: Tensor) -> Tensor:
        """`act` of a slice's solver and its parts of the batches, slice by slice."""
        parts = zip(self.slices, *(batch.unbind(1) for batch in batches), strict=True)
        return torch.stack([act(*part) for part in parts], 1)


def stacked_problem(slices: Sequence[InverseProblem]) -> InverseProblem:
    """The volume of slices that are scaled alike and have one noise level."""
    operator = StackedOperator(tuple(one.operator for one in slices))
    solver = StackedSolver(tuple(one.solver for one in slices))
    measurement = torch.stack([one.measurement for one in slices])
    return InverseProblem(operator, solver, measurement, slices[0].noise_std)


@final
class AlternatingPlanes:
    """A prior of slices as a prior of volumes (batch, slices, rows, columns).

    Every call asks it about all planes of one direction, the next call about those of the next:
    together the geometric mean of the priors of all directions, raised to their `POWER`.
    """

    def __init__(self, prior: Prior, directions: Sequence[int]) -> None:
        """`directions` are axes of the volume, 0 to 2, that planes are perpendicular to."""
        self._directions = tuple(directions)
        self._prior = Raised(prior, POWER[len(self._directions) - 1])
        self._calls = 0

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self._prior.sigma_range

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[clean | noisy] of planes that know nothing of each other, under the prior's power."""
        axis = 1 + self._directions[self._calls % len(self._directions)]
        self._calls += 1
        planes = noisy.movedim(axis, 1)
        parts = planes.flatten(0, 1).split(_PLANES_AT_ONCE)
        clean = torch.cat([self._prior.denoise(part.contiguous(), sigma) for part in parts])
        return clean.unflatten(0, planes.shape[:2]).movedim(1, axis)


def plane_directions(sides: tuple[float, float, float]) -> tuple[int, ...]:
    """Directions whose planes have voxels that are nearly squares, of voxels of these sides.

    `sides` are from slice to slice, along rows and along columns, in any one unit. Planes of slices
    are always among them.
    """
    found = [0]
    for direction, (one, other) in ((1, (sides[0], sides[2])), (2, (sides[0], sides[1]))):
        if max(one, other) <= ISOTROPIC * min(one, other):
            found.append(direction)
    return tuple(found)
