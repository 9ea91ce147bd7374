"""Two networks for two ranges of noise: where little noise leaves detail, and where it does not.

Balaji et al. 2022 ("eDiff-I: Text-to-Image Diffusion Models with an Ensemble of Expert Denoisers")
give noise levels networks of their own. Under much noise only the coarse shape of an image can be
known, and that is in the centre of k-space: the second network may work on that alone
(`ResidualUNetConfig.reduction`), sees whole heads and costs a sixteenth.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.network_configs import NoiseExpertsConfig
from models.residual_unet import ResidualUNet


class NoiseExperts(nn.Module):
    """Raw network for EDM preconditioning: maps what `ResidualUNet` maps, by one of two.

    `at` names the one for a level that is known beforehand; a batch of several levels is split.
    """

    def __init__(self, config: NoiseExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.fine = ResidualUNet(config.fine)
        self.coarse = ResidualUNet(config.coarse)

    @property
    def parts(self) -> tuple[ResidualUNet, ResidualUNet]:
        """Both networks: for little noise and for much."""
        return self.fine, self.coarse

    def at(self, sigma: float) -> ResidualUNet:
        """The network for noise of `sigma`."""
        return self.coarse if sigma >= self.config.switch else self.fine

    def split(self, sigma: Tensor) -> list[tuple[ResidualUNet, Tensor]]:
        """The networks that are needed for `sigma` (batch,), and a mask (batch,) for each.

        On a GPU this waits for `sigma`.
        """
        much = sigma >= self.config.switch
        both = (self.fine, ~much), (self.coarse, much)
        return [(network, chosen) for network, chosen in both if bool(chosen.any())]

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        output = torch.empty_like(image)
        for network, chosen in self.split((noise_label / 100 - 7).exp()):
            output[chosen] = network(image[chosen], noise_label[chosen]).to(output.dtype)
        return output


def fine_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network for little noise, under the names it has by itself."""
    return _part(tensors, "fine.")


def coarse_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network for much noise, under the names it has by itself."""
    return _part(tensors, "coarse.")


def joined(fine: Mapping[str, Tensor], coarse: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `NoiseExperts` from those of its networks."""
    return {f"fine.{name}": value for name, value in fine.items()} | {
        f"coarse.{name}": value for name, value in coarse.items()
    }


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
