"""The ways from a noisy image down to the posterior: one class each, and one table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

from recon.noise import NoiseStreams
from recon.sampler import InverseProblem, Level, State, spread
from recon.schedule import measurement_path, prior_path


class Widths(NamedTuple):
    """Noise levels of the localization."""

    start: float
    """Of x0' = coarse + start * z, where the reverse diffusion begins."""
    end: float
    """Where the diffusion hands over to annealed Langevin."""


class Descent(NamedTuple):
    """What a stretch of annealing has to do."""

    steps: int
    """Network evaluations."""
    lowest: float
    """Lowest noise level of the prior."""
    eta: float
    """Noise of the measurement, per real component."""
    step: float
    """Langevin step."""
    focus: float | None = None
    """Noise level around which steps are dense (`recon.schedule.dense`); None for equal ratios."""


class AnnealingPath(ABC):
    """Which targets annealed Langevin follows, and how a chain is raised again for another draw.

    A further path is one subclass and one row in `PATHS`.
    """

    name: ClassVar[str]

    @abstractmethod
    def widths(self, localization: float, lowest: float, highest: float) -> Widths:
        """Levels of the diffusion, from the coarse image's own and the prior's two ends."""

    @abstractmethod
    def first(self, widths: Widths, descent: Descent) -> tuple[Level, ...]:
        """Steps from the localization's end to the posterior."""

    @abstractmethod
    def again(self, top: float, descent: Descent) -> tuple[Level, ...]:
        """Steps of a cycle, from where `reopen` left the chains."""

    @abstractmethod
    def reopen(
        self, problem: InverseProblem, state: State, lowest: float, top: float, noise: NoiseStreams
    ) -> State:
        """The chains raised from the posterior to the noise level `top`."""


@final
@dataclass(frozen=True)
class PriorPath(AnnealingPath):
    """Exact likelihood, the prior's noise level falls (Parulekar et al.).

    The diffusion begins at ten times the localization's own noise. From the coarse image's error
    alone, directions that were not measured and are as wide as the image itself end with 4 % of
    their variance (Gaussian prior, `fast`), with ten times that at 90 %, and chains keep the
    ghosts of a poor coarse image: at R = 8 with a 1-D mask their mean was 2 dB worse.
    """

    name = "prior"
    widening: float = 10.0
    """Start of the diffusion over the localization's own noise."""
    handover: float = 2 / 3
    """End of the diffusion over its start."""

    def widths(self, localization: float, lowest: float, highest: float) -> Widths:
        start = max(min(self.widening * localization, highest), lowest)
        return Widths(start, max(self.handover * start, lowest))

    def first(self, widths: Widths, descent: Descent) -> tuple[Level, ...]:
        return self.again(widths.end, descent)

    def again(self, top: float, descent: Descent) -> tuple[Level, ...]:
        return prior_path(top, *_of(descent))

    def reopen(
        self, problem: InverseProblem, state: State, lowest: float, top: float, noise: NoiseStreams
    ) -> State:
        return spread(problem, state, lowest, top, noise)


@final
@dataclass(frozen=True)
class MeasurementPath(AnnealingPath):
    """Re-noised measurement whose noise falls ahead of the prior's (Xun, Gupta and Price).

    Their path keeps the prior fixed. Here it falls too, through the levels at which the network
    was trained, and begins as wide as on the other path: with the prior fixed and the coarse
    image's own error as the start, directions that were not measured and are half as wide as the
    image keep 12 % of their variance.
    """

    name = "measurement"

    def widths(self, localization: float, lowest: float, highest: float) -> Widths:
        return PriorPath().widths(localization, lowest, highest)

    def first(self, widths: Widths, descent: Descent) -> tuple[Level, ...]:
        return measurement_path(widths.end, *_of(descent), anchor_sigma=widths.start)

    def again(self, top: float, descent: Descent) -> tuple[Level, ...]:
        return measurement_path(top, *_of(descent), anchor_sigma=top)

    def reopen(
        self, problem: InverseProblem, state: State, lowest: float, top: float, noise: NoiseStreams
    ) -> State:
        """The chains raised, with an anchor round their own state.

        x + top * z is an honest Gaussian measurement of x, so that drawing the anchor and then x
        given the anchor and y are the two halves of an exact Gibbs sweep of p(x | y).
        """
        shape, device = state.image.shape[1:], state.image.device
        anchor = state.image + top * noise.image(shape, device)
        return spread(problem, state, lowest, top, noise)._replace(anchor=anchor)


def _of(descent: Descent) -> tuple[float, int, float, float, float | None]:
    return descent.lowest, descent.steps, descent.eta, descent.step, descent.focus


PATHS: dict[str, AnnealingPath] = {path.name: path for path in (PriorPath(), MeasurementPath())}
"""What users may ask for, by name."""
NARROW = PriorPath(widening=1.0, handover=0.5)
"""From the coarse image's own error: for a short first look."""
