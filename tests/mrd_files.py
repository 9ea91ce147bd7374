"""ISMRMRD measurements of known images, made with the public `ismrmrd` package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import ismrmrd
import numpy as np
from numpy.typing import NDArray

CENTRE = (10.0, -20.0, 30.0)
OBLIQUE = (
    (0.8, 0.6, 0.0),
    (-0.6 * 0.6, 0.8 * 0.6, 0.8),
    (0.6 * 0.8, -0.8 * 0.8, 0.6),
)
"""Perpendicular read, phase and slice directions along none of the axes."""

Matrix = tuple[int, int, int]


def header(
    encoded: Matrix,
    recon: Matrix | None = None,
    *,
    voxel: tuple[float, float, float] = (1.5, 2.0, 4.0),
    trajectory: str = "cartesian",
    centre: tuple[int, int] | None = None,
    extra: str = "",
    parallel: str = "",
) -> str:
    recon = recon or encoded
    first, second = centre or (encoded[1] // 2, encoded[2] // 2)

    def space(name: str, matrix: Matrix) -> str:
        sizes = "".join(f"<{a}>{n}</{a}>" for a, n in zip("xyz", matrix, strict=True))
        views = "".join(f"<{a}>{n * v}</{a}>" for a, n, v in zip("xyz", matrix, voxel, strict=True))
        return (
            f"<{name}><matrixSize>{sizes}</matrixSize>"
            f"<fieldOfView_mm>{views}</fieldOfView_mm></{name}>"
        )

    def limit(name: str, size: int, middle: int) -> str:
        return (
            f"<{name}><minimum>0</minimum><maximum>{size - 1}</maximum>"
            f"<center>{middle}</center></{name}>"
        )

    return (
        f'<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">{extra}'
        "<experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz>"
        f"</experimentalConditions><encoding>{space('encodedSpace', encoded)}"
        f"{space('reconSpace', recon)}<encodingLimits>"
        f"{limit('kspace_encoding_step_1', encoded[1], first)}"
        f"{limit('kspace_encoding_step_2', encoded[2], second)}</encodingLimits>"
        f"<trajectory>{trajectory}</trajectory>{parallel}</encoding></ismrmrdHeader>"
    )


def fourier(image: NDArray[np.complex64], axes: Sequence[int]) -> NDArray[np.complex64]:
    """Centred orthonormal transform, index n // 2 being the origin on both sides."""
    axes = tuple(axes)
    moved = np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho")
    return np.fft.fftshift(moved, axes).astype(np.complex64)


def readout(data: NDArray[np.complex64], line: int, partition: int = 0, **more: object) -> object:
    """One acquisition (coils, samples); `flags` are bits from 1, counters go by their names."""
    flags = more.pop("flags", ())
    counters = {
        name: more.pop(name) for name in tuple(more) if hasattr(ismrmrd.EncodingCounters, name)
    }
    read_dir, phase_dir, slice_dir = OBLIQUE
    fields = {
        "center_sample": data.shape[1] // 2,
        "sample_time_us": 5.0,
        "position": CENTRE,
        "read_dir": read_dir,
        "phase_dir": phase_dir,
        "slice_dir": slice_dir,
        **more,
    }
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, np.complex64), **fields)
    acquisition.idx.kspace_encode_step_1 = line
    acquisition.idx.kspace_encode_step_2 = partition
    for name, value in counters.items():
        setattr(acquisition.idx, name, value)
    for flag in flags:  # type: ignore[attr-defined]
        acquisition.set_flag(flag)
    return acquisition


def lines(
    kspace: NDArray[np.complex64], chosen: Sequence[int] | None = None, **more: object
) -> Iterator[object]:
    """Readouts of k-space (coils, x, y), one per chosen y."""
    for line in range(kspace.shape[2]) if chosen is None else chosen:
        yield readout(kspace[:, :, line], line, **more)


def write(path: Path, xml: str, acquisitions: Sequence[object], group: str = "dataset") -> Path:
    with ismrmrd.Dataset(str(path), group, mode="a") as file:
        file.write_xml_header(xml.encode())
        for acquisition in acquisitions:
            file.append_acquisition(acquisition)
    return path


def noise(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
