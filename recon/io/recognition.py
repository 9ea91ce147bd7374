"""What a file is, before anybody reads it: told by its first bytes, then by what it holds.

A reader that comes new adds its recogniser to `RECOGNISERS`; `mri-posterior info` then knows it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.central_lines import MINIMUM_CALIBRATION, calibration_width
from recon.errors import ScanError
from recon.io.child_reader import Contents, load_array, printable, read_in_child
from recon.io.files import read_result, read_scan
from recon.io.read_limits import SIGNATURE, ReadLimits
from recon.io.result_layout import SCHEMA
from recon.scan import Scan

_HEAD = 1024
_LIMITS = ReadLimits()
_USER_BLOCK = 512
"""Where HDF5 begins in a MATLAB file of version 7.3."""


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


Recogniser = Callable[[Path, bytes], Recognised | None]
"""From a path and the first bytes of the file; None: not one of mine. May raise ScanError."""


def recognise(path: Path) -> Recognised:
    """What a file is. Raises ScanError for what cannot be opened, and what its reader refuses."""
    if not path.exists():
        raise ScanError("no-such-file", f"{path}: there is no such file; check the path")
    if path.is_dir():
        raise ScanError(
            "is-folder", f"{path} is a folder; name a file in it, or give it to `batch`, or to "
            "`train --data` where it holds images"
        )  # fmt: skip
    if not path.is_file():
        raise ScanError("not-a-file", f"{path} is not a regular file; give the path of a file")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ScanError("unreadable", f"{path}: {error.strerror}") from error
    if not head:
        raise ScanError("empty-file", f"{path} is empty; transfer it again")
    for recogniser in RECOGNISERS:
        if (found := recogniser(path, head)) is not None:
            return found
    return Recognised(
        "not known",
        (f"it starts with {printable(repr(head[:12]))}",),
        runs=False,
        advice="k-space is read from HDF5: fastMRI's layout, or ISMRMRD; see "
        "docs/scanners-and-hospitals.md",
    )


def _hdf5(path: Path, head: bytes) -> Recognised | None:
    if not head.startswith(SIGNATURE):
        return None
    contents = read_in_child(path, (), limits=_LIMITS)
    names = {name for name, _, _ in contents.datasets}
    if contents.attributes.get("schema") == SCHEMA:
        return _result(path)
    raw = any(name.endswith("/xml") or name == "xml" for name in names)
    if "kspace" in names or raw:
        layout = "fastMRI k-space" if "kspace" in names else "ISMRMRD raw data"
        return _scan(path, f"{layout} (HDF5)", contents)
    return Recognised(
        "HDF5 without k-space",
        _listed(contents),
        runs=False,
        advice="a scan has a dataset 'kspace' (slices, coils, rows, columns) at its root; images "
        "can be given to `train --data {file}`",
    )


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


def _scan(path: Path, kind: str, contents: Contents) -> Recognised:
    """A scan is read whole: what its values hold decides."""
    try:
        scan = read_scan(path)
    except ScanError as error:
        return Recognised(
            kind, _listed(contents), runs=False, advice=f"refused ({error.code}): {error.message}"
        )
    slices, coils = scan.kspace.shape[:2]
    rows, columns = scan.image_shape
    width = lines_for_maps(scan)
    sampling = "Cartesian" if scan.trajectory is None else "not Cartesian"
    maps = "coil maps in the file" if scan.coil_maps is not None else "no coil maps in the file"
    told = (
        f"{_counted(slices, 'slice')}, {_counted(coils, 'coil')}, {rows} × {columns}, {sampling}",
        f"acceleration {scan.acceleration:.2f}, {width} central lines fully sampled",
        f"{'a noise scan' if scan.noise_samples is not None else 'no noise scan'}, {maps}",
    )
    if scan.coil_maps is None and coils > 1 and width < MINIMUM_CALIBRATION:
        advice = (
            f"coil maps need {MINIMUM_CALIBRATION} central lines or more; hand them over: "
            "mri-posterior reconstruct {file} -o result.h5 --maps MAPS.h5, or --calibration SCAN.h5"
        )
        return Recognised(kind, told, runs=False, advice=advice)
    if scan.acceleration < 1.05:
        advice = "fully sampled; mri-posterior undersample {file} -o scan.h5 makes a scan to try on"
        return Recognised(kind, told, runs=True, advice=advice)
    return Recognised(kind, told, runs=True, advice="mri-posterior reconstruct {file} -o result.h5")


def lines_for_maps(scan: Scan) -> int:
    """Fully sampled central lines that coil maps can be found from."""
    width = calibration_width(scan.sampled)
    if scan.calibration is not None:
        width = max(width, calibration_width((scan.calibration != 0).any(axis=(0, 1))))
    return width


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _listed(contents: Contents) -> tuple[str, ...]:
    return tuple(f"{path}: {shape}, {kind}" for path, shape, kind in contents.datasets[:12])


def _matlab(path: Path, head: bytes) -> Recognised | None:
    if not head.startswith(b"MATLAB "):
        return None
    with path.open("rb") as file:
        file.seek(_USER_BLOCK)
        hdf5 = file.read(len(SIGNATURE)) == SIGNATURE
    kind = "MATLAB 7.3 (HDF5 behind a header)" if hdf5 else "MATLAB, before version 7.3"
    return Recognised(
        kind, (), runs=False, advice="save k-space as dataset 'kspace' of an HDF5 file: h5create "
        "and h5write in MATLAB, or h5py, (slices, coils, rows, columns)",
    )  # fmt: skip


def _dicom(_: Path, head: bytes) -> Recognised | None:
    if head[128:132] != b"DICM":
        return None
    return Recognised(
        "DICOM image", ("images, whose k-space is gone",), runs=False,
        advice="images are something to train on: mri-posterior train --data FOLDER --out RUN; for "
        "a reconstruction export the raw data from the scanner",
    )  # fmt: skip


def _nifti(path: Path, head: bytes) -> Recognised | None:
    plain = len(head) > 348 and head[344:348] in (b"n+1\x00", b"ni1\x00")
    if not plain and not path.name.endswith((".nii.gz", ".nii")):
        return None
    return Recognised(
        "NIfTI image", ("images, whose k-space is gone",), runs=False,
        advice="images are something to train on: mri-posterior train --data {file} --out RUN",
    )  # fmt: skip


def _numpy(path: Path, head: bytes) -> Recognised | None:
    if head.startswith(b"PK") and path.suffix == ".npz":
        return Recognised(
            "NumPy archive", (), runs=False, advice="load it and call recon.reconstruct_array, or "
            "save the array as dataset 'kspace' with h5py",
        )  # fmt: skip
    if not head.startswith(b"\x93NUMPY"):
        return None
    array = load_array(path)
    told = (f"{' × '.join(map(str, array.shape))}, {array.dtype}",)
    if array.dtype.kind == "c":
        return Recognised(
            "NumPy array of complex numbers", told, runs=False,
            advice="k-space? recon.reconstruct_array(numpy.load('{file}'), mask, prior), or as "
            "dataset 'kspace' (slices, coils, rows, columns) in HDF5",
        )  # fmt: skip
    if array.ndim in (1, 2) and np.isin(array, (0, 1)).all():
        share = float(np.mean(array == 1))
        return Recognised(
            "sampling mask", (*told, f"{share:.1%} sampled"), runs=None,
            advice="mri-posterior reconstruct SCAN.h5 -o result.h5 --mask {file}",
        )  # fmt: skip
    return Recognised("NumPy array", told, runs=False, advice="k-space is complex, a mask 0 and 1")


def _bart(path: Path, head: bytes) -> Recognised | None:
    del head
    header = path.with_suffix(".hdr")
    if path.suffix not in (".cfl", ".hdr") or not header.is_file():
        return None
    lines = header.read_text(errors="replace")[:2000].splitlines()
    sizes = next((line for line in lines if line and not line.startswith("#")), "")
    return Recognised(
        "BART array (.cfl, .hdr)", (f"dimensions {printable(sizes)}",), runs=False,
        advice="read it with BART's cfl.readcfl and call recon.reconstruct_array, or save it as "
        "dataset 'kspace' (slices, coils, rows, columns) with h5py",
    )  # fmt: skip


def _twix(path: Path, head: bytes) -> Recognised | None:
    """VD and later begin with 0 and the number of measurements, VB with its header's length."""
    if path.suffix.lower() != ".dat" or len(head) < 8:
        return None
    first, second = struct.unpack("<II", head[:8])
    newer = first < 10_000 and 0 < second <= 64
    told = (f"software {'VD or later' if newer else 'VB'}",)
    return Recognised(
        "Siemens raw data (twix)", told, runs=False,
        advice="convert it: siemens_to_ismrmrd -f {file} -o scan.h5, then "
        "mri-posterior reconstruct scan.h5 -o result.h5",
    )  # fmt: skip


def _others(path: Path, head: bytes) -> Recognised | None:
    del head
    name = path.name.lower()
    if name.startswith("p") and name.endswith(".7"):
        told, command = "GE P-file", "ge_to_ismrmrd -o scan.h5 {file}"
    elif name.endswith((".raw", ".lab", ".list", ".sin")):
        told, command = "Philips raw data", "philips_to_ismrmrd -f {file} -o scan.h5"
    else:
        return None
    return Recognised(told, (), runs=False, advice=f"convert it: {command}")


RECOGNISERS: tuple[Recogniser, ...] = (
    _hdf5,
    _matlab,
    _dicom,
    _numpy,
    _nifti,
    _bart,
    _twix,
    _others,
)
"""In the order in which they are asked."""
