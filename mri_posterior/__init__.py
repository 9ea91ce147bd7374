"""The packages `recon`, `models` and `service` as others import them: `mri_posterior.recon`, ….

A wheel holds them in this folder. In a checkout they lie beside it, and these names are theirs:
`mri_posterior.recon` is the very module `recon`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_ROOMS = ("recon", "models", "service")


class _Beside(MetaPathFinder, Loader):
    """Finds a module below the name of this package under the name that it has beside it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  # the interface has it
        target: ModuleType | None = None,  # noqa: ARG002  # the same
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(f"{__name__}.")
        if name == fullname or name.partition(".")[0] not in _ROOMS:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.removeprefix(f"{__name__}."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # It has run already; only its spec was replaced, by that of the longer name.
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


if not (Path(__file__).parent / _ROOMS[0]).is_dir():
    sys.meta_path.insert(0, _Beside())
