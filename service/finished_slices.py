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

from recon.errors import ScanError
from recon.io.files import read_result, write_result
from recon.posterior import SlicePosterior

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
