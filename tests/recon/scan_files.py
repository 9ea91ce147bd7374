"""Small HDF5 files and arrays that the tests of reading and writing share."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import read_scan

HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>8</x><y>6</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>4</x><y>5</y><z>1</z></matrixSize>
<fieldOfView_mm><x>220.0</x><y>200.5</y><z>5</z></fieldOfView_mm></reconSpace>
</encoding></ismrmrdHeader>"""


def noise(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    """Complex normal numbers; none is zero."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def store(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ScanError) as caught:
        read_scan(path, **options)
    return caught.value.code


def assert_same(left: object, right: object) -> None:
    for item in fields(left):  # type: ignore[arg-type]
        a, b = getattr(left, item.name), getattr(right, item.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, item.name
            np.testing.assert_array_equal(a, b, err_msg=item.name)
        elif is_dataclass(a) and type(a) is type(b):
            assert_same(a, b)
        else:
            # NaN, which is not equal to itself, is as good as another.
            np.testing.assert_equal(a, b, err_msg=item.name)
