"""ISMRMRD raw data in HDF5: which types of the layout are harmless, and reading them in bulk.

Runs in the child of `recon.io.child_reader` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5t
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_readouts import HEAD, positions_of
from recon.io.read_limits import ReadLimits

_RAW = (b"head", b"traj", b"data")
_WAVEFORM = (b"head", b"data")
_TEXTS = {"xml", "config", "config_file", "configAdditional", "attributes"}
_MEMBERS = 64
_SLAB_BYTES = 64 << 20


def belongs_to_mrd(kind: h5t.TypeID, path: str) -> bool:
    """Whether a type is the one that MRD has in this place of a group below the root."""
    group, _, name = path.rpartition("/")
    if not group:
        return False
    if name in _TEXTS:
        return isinstance(kind, h5t.TypeStringID)
    if not isinstance(kind, h5t.TypeCompoundID):
        return False
    if name == "header":
        return _is_plain(kind)
    members = _members(kind)
    names = tuple(member for member, _ in members)
    if (name, names) not in {("data", _RAW), ("waveforms", _WAVEFORM)}:
        return False
    head, *series = (member_type for _, member_type in members)
    return _is_plain(head) and all(_is_series(member_type) for member_type in series)


def raw_group(datasets: Mapping[str, h5py.Dataset]) -> str | None:
    """Path of the only group with readouts; None when there is none. Raises ScanError on several.

    `datasets` are those that passed the walk.
    """
    groups = [
        path.removesuffix("/data")
        for path, dataset in datasets.items()
        if path.endswith("/data") and dataset.dtype.names == ("head", "traj", "data")
    ]
    if len(groups) > 1:
        raise ScanError(
            "ambiguous-group",
            f"the file holds {len(groups)} measurements; save one measurement per file",
        )
    return groups[0] if groups else None


def read_heads(dataset: h5py.Dataset) -> NDArray[np.void]:
    """(readouts,) headers, field by field, whatever order the file has them in."""
    if dataset.ndim != 1 or dataset.size == 0:
        raise ScanError("no-readouts", "the ISMRMRD file holds no readouts; export it again")
    stored = dataset.fields("head")[()]
    heads = np.zeros(dataset.shape, HEAD)
    try:
        for name in HEAD.names or ():
            if name != "idx":
                heads[name] = stored[name]
        for name in HEAD["idx"].names or ():
            heads["idx"][name] = stored["idx"][name]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ScanError(
            "mrd-layout", "the readout headers are not those of ISMRMRD version 1; convert again"
        ) from error
    return heads


def copy_samples(
    dataset: h5py.Dataset, heads: NDArray[np.void], output: Path, limits: ReadLimits
) -> None:
    """Write all samples to one .npy file (samples,) complex64, slab by slab. Raises ScanError."""
    lengths = heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
    _copy_series(dataset, "data", lengths, np.dtype("<c8"), output, limits)


def copy_trajectory(
    dataset: h5py.Dataset, heads: NDArray[np.void], output: Path, limits: ReadLimits
) -> None:
    """Write all k-space positions to one .npy file (coordinates,) float32. Raises ScanError."""
    _copy_series(dataset, "traj", positions_of(heads), np.dtype("<f4"), output, limits)


def _copy_series(
    dataset: h5py.Dataset,
    name: str,
    lengths: NDArray[np.int64],
    kind: np.dtype[Any],
    output: Path,
    limits: ReadLimits,
) -> None:
    """Values of one variable-length member of all readouts, `lengths` of each.

    Many rows may point at the same stored values, so what counts is what is handed on.
    """
    total, per_value = int(lengths.sum()), kind.itemsize // 4
    stored = dataset.file.id.get_filesize()
    allowed = max(limits.expansion_floor_bytes, limits.expansion * stored)
    if kind.itemsize * total > min(limits.declared_bytes, allowed):
        raise ScanError(
            "too-large",
            f"the readouts declare {kind.itemsize * total} bytes of samples; split the scan",
        )
    rows = max(1, int(_SLAB_BYTES // (kind.itemsize * max(int(lengths.max()), 1))))
    with output.open("wb") as file:
        header = {"descr": kind.str, "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, len(lengths) if total else 0, rows):
            for row, length in zip(
                dataset.fields(name)[start : start + rows],
                lengths[start : start + rows],
                strict=True,
            ):
                if row.dtype.kind != "f" or row.shape != (per_value * length,):
                    raise ScanError(
                        "readout-length",
                        "a readout holds more or fewer samples than its header says; "
                        "convert the raw data again",
                    )
                row.astype("<f4").tofile(file)


def _members(kind: h5t.TypeCompoundID) -> list[tuple[bytes, h5t.TypeID]]:
    count = min(kind.get_nmembers(), _MEMBERS)
    return [(kind.get_member_name(i), kind.get_member_type(i)) for i in range(count)]


def _is_series(kind: h5t.TypeID) -> bool:
    """Variable-length numbers."""
    return isinstance(kind, h5t.TypeVlenID) and _is_plain(kind.get_super())


def _is_plain(kind: h5t.TypeID, depth: int = 0) -> bool:
    """Numbers, arrays of numbers and records of these, two levels deep."""
    if isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID):
        return bool(kind.get_size() <= 8)
    if isinstance(kind, h5t.TypeArrayID):
        return _is_plain(kind.get_super(), depth + 1) if depth < 3 else False
    if isinstance(kind, h5t.TypeCompoundID) and depth < 2 and kind.get_nmembers() <= _MEMBERS:
        return all(_is_plain(member, depth + 1) for _, member in _members(kind))
    return False
