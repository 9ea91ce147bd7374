"""What a file is, for people: told by its first bytes, then by what it holds.

Formats are those of `recon.io.formats`; results and masks, which are no scans, are known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.central_lines import calibration_width, enough_for_maps, needed_for_maps
from recon.errors import ScanError
from recon.io.child_reader import Contents, load_array, printable, read_in_child
from recon.io.files import examine_scan, read_result, read_scan
from recon.io.formats import FORMATS, start_of
from recon.io.layouts import LAYOUTS
from recon.io.read_limits import ReadLimits
from recon.io.result_layout import SCHEMA
from recon.scan import Scan

_LIMITS = ReadLimits()


@dataclass(frozen=True)
class Recognised:
    """A file for people: what it is, what it holds, what can be done with it."""

    kind: str
    contents: tuple[str, ...]
    """Lines about what is in it."""
    runs: bool | None
    """Whether `reconstruct` takes it as it is; None: it is no scan, and is of use otherwise."""
    advice: str
    """How to go on; `{file}` stands for its path."""


def recognise(path: Path) -> Recognised:
    """What a file is. Raises ScanError for what cannot be opened, and what its reader refuses."""
    if not path.exists():
        raise ScanError("no-such-file", f"{path}: there is no such file; check the path")
    if path.is_dir():
        raise ScanError(
            "is-folder", f"{path} is a folder; name a file in it, or give it to `batch`, or to "
            "`train --data` where it holds images"
        )  # fmt: skip
    start = start_of(path)
    known = next((known for known in FORMATS if known.recognise(start)), None)
    if known is None:
        return Recognised(
            "not known",
            (f"it starts with {printable(repr(start.head[:12]))}",),
            runs=False,
            advice="k-space is read from fastMRI's and other layouts in HDF5, ISMRMRD, Siemens raw "
            "data, NumPy and BART files; see docs/formats.md",
        )
    if not known.is_read:
        return Recognised(known.name, (), runs=False, advice=f"this is {known.sentence}")
    if start.hdf5:
        return _hdf5(path)
    if known.name == "NumPy .npy" and (other := _no_kspace(path)) is not None:
        return other
    return _scan(path, known.name, None)


def _hdf5(path: Path) -> Recognised:
    contents = read_in_child(path, (), limits=_LIMITS)
    names = {name for name, _, _ in contents.datasets}
    if contents.attributes.get("schema") == SCHEMA:
        return _result(path)
    if any(name.endswith("/xml") or name == "xml" for name in names) and "kspace" not in names:
        return _scan(path, "ISMRMRD raw data (HDF5)", contents)
    try:
        layout = examine_scan(path).layout
    except ScanError as error:
        if error.code != "no-kspace":
            return _refused("HDF5", contents, error)
        return Recognised(
            "HDF5 without k-space",
            _listed(contents),
            runs=False,
            advice="a scan has a dataset 'kspace' (slices, coils, rows, columns) at its root, or "
            "another whose axes --axes names; images can be given to `train --data {file}`",
        )
    sentence = next((known.sentence for known in LAYOUTS if known.name == layout), "k-space")
    kind = "fastMRI k-space (HDF5)" if layout == "fastmri" else f"{sentence} (HDF5)"
    return _scan(path, kind, contents)


def _result(path: Path) -> Recognised:
    posteriors, attributes = read_result(path)
    first = posteriors[0]
    count, rows, columns = first.samples.shape
    converged = sum(one.converged for one in posteriors)
    return Recognised(
        "result of `reconstruct`",
        (
            f"{_counted(len(posteriors), 'slice')} of {rows} × {columns}, {count} samples each",
            f"model {printable(attributes.get('model_id', '?'))}, preset "
            f"{printable(attributes.get('preset', '?'))}, made {attributes.get('created', '?')}",
            f"{converged} of {len(posteriors)} slices converged; "
            f"{_counted(sum(len(one.warnings) for one in posteriors), 'warning')}",
        ),
        runs=None,
        advice="mri-posterior export {file} --to nifti -o image.nii.gz",
    )


def _refused(kind: str, contents: Contents | None, error: ScanError) -> Recognised:
    told = () if contents is None else _listed(contents)
    return Recognised(kind, told, runs=False, advice=f"refused ({error.code}): {error.message}")


def _scan(path: Path, kind: str, contents: Contents | None) -> Recognised:
    """A scan is read whole: what its values hold decides."""
    try:
        scan = read_scan(path)
    except ScanError as error:
        return _refused(kind, contents, error)
    slices, coils = scan.kspace.shape[:2]
    rows, columns = scan.image_shape
    centres = _centres(scan)
    width = max(calibration_width(sampled) for sampled in centres)
    sampling = "Cartesian" if scan.trajectory is None else "not Cartesian"
    maps = "coil maps in the file" if scan.coil_maps is not None else "no coil maps in the file"
    told = (
        f"{_counted(slices, 'slice')}, {_counted(coils, 'coil')}, {rows} × {columns}, {sampling}",
        f"acceleration {scan.acceleration:.2f}, {width} central lines fully sampled",
        f"{'a noise scan' if scan.noise_samples is not None else 'no noise scan'}, {maps}",
    )
    if scan.coil_maps is None and coils > 1 and not any(map(enough_for_maps, centres)):
        advice = (
            f"coil maps need {needed_for_maps()}; hand them over: "
            "mri-posterior reconstruct {file} -o result.h5 --maps MAPS.h5, or --calibration SCAN.h5"
        )
        return Recognised(kind, told, runs=False, advice=advice)
    if scan.acceleration < 1.05:
        advice = "fully sampled; mri-posterior undersample {file} -o scan.h5 makes a scan to try on"
        return Recognised(kind, told, runs=True, advice=advice)
    return Recognised(kind, told, runs=True, advice="mri-posterior reconstruct {file} -o result.h5")


def _centres(scan: Scan) -> list[NDArray[np.bool_]]:
    """What was sampled (rows, columns), by the scan itself and by lines acquired apart."""
    apart = scan.calibration
    return [scan.sampled] if apart is None else [scan.sampled, (apart != 0).any(axis=(0, 1))]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _listed(contents: Contents) -> tuple[str, ...]:
    return tuple(f"{path}: {shape}, {kind}" for path, shape, kind in contents.datasets[:12])


def _no_kspace(path: Path) -> Recognised | None:
    """A mask, or an array that can be no k-space; None for complex numbers."""
    array = load_array(path)
    told = (f"{' × '.join(map(str, array.shape))}, {array.dtype}",)
    if array.dtype.kind == "c":
        return None
    if array.ndim in (1, 2) and np.isin(array, (0, 1)).all():
        share = float(np.mean(array == 1))
        return Recognised(
            "sampling mask", (*told, f"{share:.1%} sampled"), runs=None,
            advice="mri-posterior reconstruct SCAN.h5 -o result.h5 --mask {file}",
        )  # fmt: skip
    return Recognised("NumPy array", told, runs=False, advice="k-space is complex, a mask 0 and 1")
