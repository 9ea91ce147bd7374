"""A model by its name becomes a prior: its network built, its weights in it, on a device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from models.architectures import build_network
from models.denoiser import NetworkPrior
from models.errors import ModelError
from models.model_weights import Model, read_model
from models.registry import find_model, read_factors, read_typical


def load_prior(
    name: str,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype | None = None,
) -> NetworkPrior:
    """A model as a prior on `device`.

    The network computes in `compute_dtype`, which defaults to `compute_dtype_for(device)`. Raises
    ModelError when any check fails.
    """
    return build_prior(read_model(find_model(name)), device, compute_dtype)


def build_prior(
    model: Model, device: torch.device | str = "cpu", compute_dtype: torch.dtype | None = None
) -> NetworkPrior:
    """A checked model as a prior, as `load_prior` does."""
    config, target = model.config, torch.device(device)
    with torch.device("meta"):  # the weights that are there need no others beside them
        network = build_network(config.network)
    network.load_state_dict(
        {key: value.float() for key, value in model.tensors.items()}, assign=True
    )
    network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = compute_dtype or compute_dtype_for(target)
    cast_weights(network, dtype)
    return NetworkPrior(
        network,
        config.sigma_range,
        dtype,
        config.parameterization,
        config.scale,
        symmetric=config.symmetric,
        power=config.power,
    )


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights that autocast would cast at every call as it wants them; others stay.

    The same numbers: autocast remembers its casts only of weights that are trained.
    """
    if dtype == torch.float32:
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(dtype)


class SmokeTest(NamedTuple):
    """What a prior made of pure noise; both in units of the image."""

    sigma: float
    remaining: float
    """RMS of one component of the output, where the input's was `sigma`."""


def smoke_test(prior: NetworkPrior, name: str) -> SmokeTest:
    """Run the network on a 64 x 64 image: empty at its lowest and highest level, and noisy.

    Raises ModelError when the network fails, when an output is not finite, or when noise of an
    empty image is not reduced.
    """
    low, high = prior.sigma_range
    sigma = min(max(0.5, low), high)
    generator = torch.Generator().manual_seed(0)
    noise = torch.view_as_complex(sigma * torch.randn((1, 64, 64, 2), generator=generator))
    try:
        empty = [prior.denoise(torch.zeros_like(noise), level) for level in (low, high)]
        clean = prior.denoise(noise, sigma)
    except RuntimeError as error:
        raise ModelError("does-not-run", f"the network of '{name}' fails: {error}") from error
    if not all(bool(image.isfinite().all()) for image in (*empty, clean)):
        raise ModelError("output-not-finite", f"model '{name}' computes NaN or infinite values")
    remaining = float(torch.view_as_real(clean).square().mean().sqrt())
    if remaining >= 0.9 * sigma:
        raise ModelError(
            "does-not-denoise",
            f"model '{name}' leaves {remaining:.3g} of pure noise of {sigma:.3g}; its "
            "configuration (parameterization, scale) does not belong to its weights",
        )
    return SmokeTest(sigma, remaining)


def verify_model(name: str) -> tuple[Model, SmokeTest]:
    """All checks of a model and what lies beside it, and a run of its network on the CPU.

    Raises ModelError.
    """
    model = read_model(find_model(name))
    read_factors(name)
    read_typical(name)
    return model, smoke_test(build_prior(model, "cpu", torch.float32), name)


def compute_dtype_for(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32.

    Asked of torch, which asks CUDA (compute capability 8 and up) or, on x86, CPUID: AVX512-BF16 or
    AMX. Elsewhere bfloat16 is emulated. Measured with the default network on one core of an EPYC
    with AVX512-BF16, 256 x 256 pixels: 0.05 s per slice against 0.10 s in float32.

    Older GPUs compute in float32, though they multiply float16 faster: its range ends at 65,504,
    networks without normalisation (the shipped one) have no bound of their own, and a strangers'
    network that overflows would end as diverged chains.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.bfloat16 if native else torch.float32
