"""Priors to compare: shipped and installed ones by name, others by the folder that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models import DEFAULT_MODEL
from models.denoiser import NetworkPrior
from models.loading import build_prior, load_prior
from models.model_weights import read_model


def chosen_priors(chosen: Sequence[str]) -> dict[str, NetworkPrior]:
    """Priors by what they were asked for; the default one if nothing was. Raises ModelError."""
    return {name: _prior(name) for name in chosen or [DEFAULT_MODEL]}


def _prior(name: str) -> NetworkPrior:
    folder = Path(name)
    return build_prior(read_model(folder)) if folder.is_dir() else load_prior(name)
