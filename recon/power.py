"""A prior raised to a power: how sure of itself its sampler takes it to be.

The density p(x)^w of a Gaussian prior of covariance C is Gaussian with covariance C / w, and

    C/w (C/w + sigma^2)^-1 = C (C + w sigma^2)^-1,

so that its denoiser at sigma is the one of the prior at sqrt(w) sigma. Of any other prior it is the
same to the order to which it looks Gaussian at that noise level. A network that errs more than it
expects to is too sure, and a power below one makes up for it; a mean of several that err less than
it expects takes one above (`recon.volumes`). Lengthening the denoiser's step instead would move
what is only noise as well.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from recon.prior import Prior


def power_of(prior: Prior) -> float:
    """The power that a prior asks to be raised to, with an attribute `power`; one without it."""
    return float(getattr(prior, "power", 1.0))


@final
class Raised:
    """A `recon.prior.Prior` that is another one raised to a power."""

    def __init__(self, prior: Prior, power: float) -> None:
        """`power` is positive."""
        self._prior = prior
        self._factor = math.sqrt(power)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self._prior.sigma_range

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """As the other prior at sqrt(power) sigma, or as far on the way there as it may be asked.

        At a level outside its range it is asked as it comes.
        """
        low, high = self.sigma_range
        asked = min(max(self._factor * sigma, min(low, sigma)), max(high, sigma))
        return self._prior.denoise(noisy, asked)
