"""Learned priors: networks, training, and a registry that gives one by its name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.errors import ModelError
    from models.loading import load_prior
    from models.registry import list_models

__all__ = ["DEFAULT_MODEL", "ModelError", "list_models", "load_prior"]

_HOMES = {
    ".errors": ("ModelError",),
    ".loading": ("load_prior",),
    ".registry": ("list_models",),
}

DEFAULT_MODEL = "brain-small"
"""The prior that is taken where nobody chooses."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """The public names, loaded when they are asked for: a prior brings torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
