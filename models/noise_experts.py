"""Networks for ranges of noise: where little noise leaves detail, and where much leaves none.

Balaji et al. 2022 ("eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers")
give noise levels networks of their own: an image costs one of them, and none has to know all. Under
much noise only the coarse shape of an image can be known, and that is in the centre of k-space: the
last network may work on that alone (`ResidualUNetConfig.reduction`), sees whole heads and costs a
sixteenth.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from models.network_configs import NoiseExpertsConfig
from models.residual_unet import ResidualUNet

Expert = Literal["fine", "middle", "coarse"]


class NoiseExperts(nn.Module):
    """Raw network for EDM preconditioning: maps what `ResidualUNet` maps, by one of two or three.

    `at` names the one for a level that is known beforehand; a batch of several levels is split.
    """

    def __init__(self, config: NoiseExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.fine = ResidualUNet(config.fine)
        self.middle = None if config.middle is None else ResidualUNet(config.middle)
        self.coarse = ResidualUNet(config.coarse)

    @property
    def parts(self) -> tuple[ResidualUNet, ...]:
        """The networks, from that for the least noise on."""
        return tuple(network for network, _ in self._lowest)

    def at(self, sigma: float) -> ResidualUNet:
        """The network for noise of `sigma`."""
        return next(network for network, lowest in reversed(self._lowest) if sigma >= lowest)

    def split(self, sigma: Tensor) -> list[tuple[ResidualUNet, Tensor]]:
        """The networks that are needed for `sigma` (batch,), and a mask (batch,) for each.

        On a GPU this waits for `sigma`.
        """
        levels = [*(lowest for _, lowest in self._lowest), float("inf")]
        ranges = zip(self.parts, pairwise(levels), strict=True)
        masks = [(part, (sigma >= low) & (sigma < high)) for part, (low, high) in ranges]
        return [(part, chosen) for part, chosen in masks if bool(chosen.any())]

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        output = torch.empty_like(image)
        for network, chosen in self.split((noise_label / 100 - 7).exp()):
            output[chosen] = network(image[chosen], noise_label[chosen]).to(output.dtype)
        return output

    @property
    def _lowest(self) -> list[tuple[ResidualUNet, float]]:
        """Each network and the noise from which on it is asked."""
        found = [(self.fine, 0.0), (self.coarse, self.config.switch)]
        if self.middle is not None and self.config.middle_from is not None:
            found.insert(1, (self.middle, self.config.middle_from))
        return found


def weights_of(tensors: Mapping[str, Tensor], expert: Expert) -> dict[str, Tensor]:
    """The weights of one of the networks, under the names it has by itself."""
    prefix = f"{expert}."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def joined(experts: Mapping[Expert, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of `NoiseExperts` from those of its networks."""
    return {
        f"{expert}.{name}": value
        for expert, tensors in experts.items()
        for name, value in tensors.items()
    }
