"""What moves the weights: AdamW for everything, or Muon for the convolutions between the ends.

Muon (Jordan et al. 2024) makes the step of a matrix orthogonal; a convolution is the matrix of its
outputs against its inputs times the kernel's places. Its steps are scaled to the size of AdamW's
(Liu et al. 2025, "Muon is Scalable for LLM Training"), so that one learning rate serves both.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.noise_experts import NoiseExperts

OptimizerName = Literal["adamw", "muon"]


class Optimizer:
    """The optimizers of a network's weights, stepped as one."""

    def __init__(
        self, network: nn.Module, name: OptimizerName, rate: float, decay: float, *, fused: bool
    ) -> None:
        matrices = hidden_convolutions(network) if name == "muon" else []
        chosen = {id(weight) for weight in matrices}
        others = [each for each in network.parameters() if id(each) not in chosen]
        self._parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(
                others, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=fused
            )
        }
        self._matrices = [
            (weight, nn.Parameter(_as_matrix(weight.detach()))) for weight in matrices
        ]
        if matrices:
            self._parts["muon"] = torch.optim.Muon(
                [flat for _, flat in self._matrices],
                lr=rate,
                weight_decay=decay,
                adjust_lr_fn="match_rms_adamw",
            )

    def step(self, rate: float) -> None:
        """One step of size `rate` along the gradients that the weights hold."""
        for weight, flat in self._matrices:
            flat.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was asked."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def hidden_convolutions(network: nn.Module) -> list[Tensor]:
    """Kernels of all convolutions but the first and the last one, of each of several networks."""
    if isinstance(network, NoiseExperts):
        return [kernel for part in network.parts for kernel in hidden_convolutions(part)]
    kinds = nn.Conv2d | nn.ConvTranspose2d
    kernels = [each.weight for each in network.modules() if isinstance(each, kinds)]
    return kernels[1:-1]


def _as_matrix(kernel: Tensor) -> Tensor:
    """(outputs, places x inputs); shares the memory of a channels-last kernel."""
    return kernel.permute(0, 2, 3, 1).reshape(kernel.shape[0], -1)
