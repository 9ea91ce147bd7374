"""ISMRMRD raw data out: the readouts of a stream as the HDF5 file that they would have been."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from recon.io.mrd_readouts import HEAD

_ROWS = 256
_NUMBERS = h5py.vlen_dtype(np.dtype("<f4"))
_ROW = np.dtype([("head", HEAD), ("traj", _NUMBERS), ("data", _NUMBERS)])


class RawReadout(NamedTuple):
    """One readout as it is sent: header, positions and samples, little endian."""

    head: bytes
    trajectory: bytes
    samples: bytes


def write_raw(path: Path, xml: str, readouts: Iterable[RawReadout]) -> None:
    """Write a new file with one measurement in group `dataset`; holds few readouts at a time."""
    with h5py.File(path, "x") as file:
        group = file.create_group("dataset")
        text = group.create_dataset("xml", (1,), h5py.string_dtype("utf-8"))
        text[0] = xml
        data = group.create_dataset("data", (0,), _ROW, maxshape=(None,), chunks=(_ROWS,))
        waiting = iter(readouts)
        while some := list(islice(waiting, _ROWS)):
            rows = np.empty(len(some), _ROW)
            for row, readout in zip(rows, some, strict=True):
                row["head"] = np.frombuffer(readout.head, HEAD)[0]
                row["traj"] = np.frombuffer(readout.trajectory, "<f4")
                row["data"] = np.frombuffer(readout.samples, "<f4")
            start = len(data)
            data.resize(start + len(rows), axis=0)
            data[start:] = rows
