"""One network for several samplers at once: their images go through it in one batch.

Samplers run in threads of their own and ask for denoised images whenever they need them. Requests
of one image shape that come within a moment are answered by one call of the network, each image at
its own noise level. The network sees larger batches, which a GPU needs to be busy with small
images; a batch of another size may round differently in the last bits.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.denoiser import NetworkPrior

_PATIENCE_SECONDS = 0.004
"""How long a request waits for company."""
_MAX_IMAGES = 256


@dataclass
class _Round:
    """Requests that will be answered together."""

    images: list[Tensor] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)
    closed: bool = False
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[Tensor] = field(default_factory=list)
    error: Exception | None = None


class SharedPrior:
    """A `recon.prior.Prior` that may be used from several threads."""

    def __init__(self, network: NetworkPrior) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._rounds: dict[tuple[int, ...], _Round] = {}
        self.sigma_range = network.sigma_range
        self.symmetric = network.symmetric
        self.power = network.power
        self.calls = 0
        self.requests = 0

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """As `NetworkPrior.denoise`; waits a moment for others."""
        shape = tuple(noisy.shape[1:])
        with self._lock:
            self.requests += 1
            current = self._rounds.get(shape)
            leads = current is None or current.closed
            if current is None or current.closed:
                current = self._rounds[shape] = _Round()
            place = len(current.images)
            current.images.append(noisy)
            current.sigmas.append(sigma)
            if sum(len(images) for images in current.images) >= _MAX_IMAGES:
                current.closed = True
                current.full.set()
        if leads:
            current.full.wait(_PATIENCE_SECONDS)
            with self._lock:
                current.closed = True
                if self._rounds.get(shape) is current:
                    del self._rounds[shape]
            self._answer(current)
        else:
            current.done.wait()
        if current.error is not None:
            raise current.error
        return current.answers[place]

    def _answer(self, current: _Round) -> None:
        try:
            counts = [len(images) for images in current.images]
            # Filled where the images are: what comes from the host, a GPU waits for.
            levels = [
                torch.full((len(images),), sigma, dtype=torch.float64, device=images.device)
                for images, sigma in zip(current.images, current.sigmas, strict=True)
            ]
            clean = self._network.denoise_each(torch.cat(current.images), torch.cat(levels))
            current.answers = list(clean.split(counts))
            self.calls += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, all who asked must hear of it
            current.error = error
        finally:
            current.done.set()
