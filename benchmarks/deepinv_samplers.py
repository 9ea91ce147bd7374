"""DPS and DiffPIR as deepinv has them, on our operator, solver and denoiser.

deepinv works on real channels in [0, 1]. With u = (x / SPAN + 1) / 2 a complex image x becomes such
channels, and y = A x + n becomes y' = A u + n / (2 SPAN) with y' = (y / SPAN + A (1 + i)) / 2: the
same problem in other units. Its own multi-coil operator solves by conjugate gradients; ours stands
in for it, so that its proximal steps are exact.

Needs the extra `benchmark` (`pip install --constraint constraints.txt -e '.[benchmark]'`).
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.samplers import Denoiser
from recon.noise import NoiseStreams
from recon.sampler import InverseProblem

SPAN = 1.5
"""Largest real or imaginary part that is represented; DiffPIR clips there. The 99th percentile of
an image's magnitude is 1."""
INSTALLED = importlib.util.find_spec("deepinv") is not None


def load_deepinv() -> Any:  # noqa: ANN401 - a module without types
    """The package; beside a CPU build of torch, torchvision needs two operators declared first."""
    global _declared
    if _declared is None:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared = library
    import deepinv

    return deepinv


_declared: torch.library.Library | None = None


def _channels(image: Tensor) -> Tensor:
    """(batch, rows, columns) complex to (batch, 2, rows, columns) in [0, 1]."""
    return (torch.view_as_real(image).movedim(-1, 1) / SPAN + 1) / 2


def _image(channels: Tensor) -> Tensor:
    return SPAN * torch.view_as_complex((2 * channels - 1).movedim(1, -1).contiguous().float())


class _ChannelDenoiser(nn.Module):
    """The denoiser of u; its noise is 2 SPAN times smaller."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, noisy: Tensor, sigma: Tensor | float, *_: object, **__: object) -> Tensor:
        level = float(torch.as_tensor(sigma).flatten()[0])
        return _channels(self.denoiser(_image(noisy), 2 * SPAN * level))


def _physics(problem: InverseProblem) -> Any:  # noqa: ANN401
    """The problem as deepinv's physics and data term, with measurements as real channels."""
    deepinv = load_deepinv()

    def forward(channels: Tensor) -> Tensor:
        complex_ = torch.view_as_complex(channels.movedim(1, -1).contiguous().float())
        return torch.view_as_real(problem.operator.forward(complex_)).movedim(-1, 1)

    def adjoint(measured: Tensor) -> Tensor:
        complex_ = torch.view_as_complex(measured.movedim(1, -1).contiguous().float())
        return torch.view_as_real(problem.operator.adjoint(complex_)).movedim(-1, 1)

    class Physics(deepinv.physics.LinearPhysics):  # type: ignore[misc, name-defined]
        def A(self, x: Tensor, **_: object) -> Tensor:  # noqa: N802
            return forward(x)

        def A_adjoint(self, y: Tensor, **_: object) -> Tensor:  # noqa: N802
            return adjoint(y)

        def prox_l2(self, z: Tensor, y: Tensor, gamma: Tensor | float, **_: object) -> Tensor:
            right = float(gamma) * adjoint(y) + z
            complex_ = torch.view_as_complex(right.movedim(1, -1).contiguous().float())
            solved = problem.solver.precondition(complex_, None, float(gamma), 1.0)
            return torch.view_as_real(solved).movedim(-1, 1)

    level = problem.noise_std / (2 * SPAN)
    return Physics(noise_model=deepinv.physics.GaussianNoise(level))


def _measured(problem: InverseProblem, chains: int) -> Tensor:
    flat = torch.full_like(problem.backprojection, 1 + 1j)
    shifted = (problem.measurement / SPAN + problem.operator.forward(flat)) / 2
    channels = torch.view_as_real(shifted).movedim(-1, 0)
    return channels.expand(chains, *channels.shape).contiguous()


def diffpir(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    steps: int = 100,
    weight: float = 7.0,
    zeta: float = 0.1,
) -> Tensor:
    """deepinv.sampling.DiffPIR with its defaults (Zhu et al. 2023)."""
    deepinv = load_deepinv()
    torch.manual_seed(_seed(noise))
    sampler = deepinv.sampling.DiffPIR(
        model=_ChannelDenoiser(denoiser),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        sigma=problem.noise_std / (2 * SPAN),
        max_iter=steps,
        zeta=zeta,
        lambda_=weight,
    )
    start = _channels(problem.backprojection[None]).expand(noise.chains, -1, -1, -1)
    found = sampler(_measured(problem, noise.chains), _physics(problem), x_init=start)
    return _image(found.detach())


def dps_of_deepinv(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    steps: int = 1000,
    weight: float = 1.0,
    guidance: str = "annealed",
) -> Tensor:
    """deepinv.sampling.DPS, whose guidance enters the drift and is not a step of constant size."""
    deepinv = load_deepinv()
    sampler = deepinv.sampling.DPS(
        _ChannelDenoiser(denoiser),
        num_steps=steps + 1,  # the last of its times is not evaluated
        weight=weight,
        guidance=guidance,
        dtype=torch.float32,
        rng=torch.Generator(problem.measurement.device).manual_seed(_seed(noise)),
    )
    shape = (noise.chains, 2, *problem.backprojection.shape)
    found = sampler(_measured(problem, noise.chains), _physics(problem), x_init=shape)
    return _image(found.detach())


def _seed(noise: NoiseStreams) -> int:
    """Deepinv draws from one stream for all chains; its seed comes from ours."""
    return int(noise.normal((1,)).real[0].mul(1e6).abs())
