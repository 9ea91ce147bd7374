"""Slices of a reconstruction that is not done yet, kept beside the result that they are to become.

Each is a result file of one slice in the folder RESULT.slices, complete or absent. What made it
stands in its attributes, so that nothing is mixed that does not belong together.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import read_result, write_result
from recon.posterior import SlicePosterior
from service.store.durable import replacing

if TYPE_CHECKING:  # whoever only asks what is there needs no torch
    from recon.scan import Scan
    from recon.settings import Settings

_VOLATILE = frozenset({"created", "software_version", "python_version"})
"""What may differ between the runs that make one result; torch may not: numbers depend on it."""


@dataclass(frozen=True)
class FinishedSlices:
    """The finished slices of one reconstruction."""

    result: Path
    about: Mapping[str, str | int | float]
    """What makes them: scan, model, settings, versions."""

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return folder_of(self.result)

    def read(self, wanted: Sequence[int]) -> dict[int, SlicePosterior]:
        """Those of the wanted slices that are there. Raises ScanError for another run's."""
        found = {}
        for index in wanted:
            path = self.folder / f"{index:05d}.h5"
            if path.is_file():
                (posterior,), attributes = read_result(path)
                self._require_same(attributes)
                found[index] = posterior
        return found

    def write(self, posterior: SlicePosterior) -> None:
        """Keep one, whole or not at all."""
        self.folder.mkdir(exist_ok=True)
        write_result(self.folder / f"{posterior.index:05d}.h5", [posterior], self.about)

    def chains(self) -> FinishedChains:
        """Where the finished chains of a volume lie: those of this very reconstruction."""
        fixed = {k: v for k, v in sorted(self.about.items()) if k not in _VOLATILE}
        digest = hashlib.sha256(repr(fixed).encode()).hexdigest()[:16]
        return FinishedChains(self.folder, digest)

    def remove(self) -> None:
        """Let go of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _require_same(self, attributes: Mapping[str, str | int | float]) -> None:
        changed = [
            name
            for name, value in self.about.items()
            if name not in _VOLATILE and attributes.get(name) != value
        ]
        if changed:
            raise ScanError(
                "other-slices",
                f"the slices in {self.folder} were made otherwise ({', '.join(changed)}); give the "
                "same scan and options as then, or begin anew with --overwrite",
            )


@dataclass(frozen=True)
class FinishedChains:
    """Draws of the finished chains of a volume; what made them is in the names of the files."""

    folder: Path
    digest: str

    def read(self, chain: int) -> NDArray[np.complex64] | None:
        """(draws, slices, rows, columns), or None: it is still to be run."""
        path = self._path(chain)
        return np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None

    def write(self, chain: int, draws: NDArray[np.complex64]) -> None:
        """Keep them, whole or not at all."""
        with replacing(self._path(chain)) as (file, _):
            np.save(file, draws, allow_pickle=False)

    def _path(self, chain: int) -> Path:
        return self.folder / f"chain-{self.digest}-{chain:05d}.npy"


def folder_of(result: Path) -> Path:
    """Where the finished slices of a result that is not there yet lie."""
    return result.with_name(f"{result.name}.slices")


def finished(result: Path) -> list[int]:
    """Numbers of the slices that an interrupted run has left."""
    names = (path.name for path in folder_of(result).glob("*.h5"))
    return sorted(int(name[:5]) for name in names if re.fullmatch(r"[0-9]{5}\.h5", name))


def choices_digest(scan: Scan, settings: Settings) -> str:
    """Digest of what provenance does not tell: mask and maps from other files, every setting."""
    digest = hashlib.sha256(repr(settings).encode())
    for array in (scan.mask, scan.coil_maps, scan.noise_samples):
        if array is not None:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
