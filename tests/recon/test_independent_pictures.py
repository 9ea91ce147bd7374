"""Every reader's picture beside the one that other software makes of the same file.

Values, orientation and scale have to agree: an array in the wrong order, a flipped axis or a factor
of the transform would show. Files are written by others where others write (twixtools, `ismrmrd`,
BART, hdf5storage), and read, transformed and combined by others here, as each data set documents.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fastmri
import h5py
import hdf5storage
import ismrmrd
import numpy as np
import pytest
import sigpy
import torch
from numpy.typing import NDArray

from recon.io.files import read_scan
from recon.phantom import simulate
from recon.quick_look import zero_filled
from recon.scan import averaged
from tests import mrd_files, twix_files

SLICES, COILS, ROWS, COLUMNS = 2, 4, 48, 40
Kspace = NDArray[np.complex64]
Pictures = NDArray[np.floating]


def combined(kspace: NDArray[np.complexfloating], places: tuple[int, int], coil: int) -> Pictures:
    """Root sum of squares by sigpy; `places` are the axes of rows and columns."""
    images = sigpy.ifft(kspace, axes=places)  # centred, orthonormal
    return np.asarray(sigpy.rss(images, axes=(coil,)))


def wide(kspace: Kspace) -> Kspace:
    """The same object within twice the field of view along the rows."""
    images = sigpy.resize(sigpy.ifft(kspace, axes=(-2, -1)), (SLICES, COILS, 2 * ROWS, COLUMNS))
    return np.asarray(sigpy.fft(images, axes=(-2, -1)), np.complex64)


def narrow(pictures: Pictures) -> Pictures:
    return pictures[:, ROWS // 2 : ROWS // 2 + ROWS]


def hdf5(path: Path, **arrays: NDArray[np.generic]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def stored(path: Path, name: str = "kspace") -> NDArray[np.generic]:
    with h5py.File(path) as file:
        return np.asarray(file[name])


def write_fastmri(path: Path, kspace: Kspace) -> Path:
    return hdf5(path, kspace=kspace)


def look_fastmri(path: Path) -> Pictures:
    """By Meta's own package."""
    images = fastmri.ifft2c(torch.view_as_real(torch.from_numpy(stored(path))))
    return np.asarray(fastmri.rss_complex(images, dim=1))


def write_single_coil(path: Path, kspace: Kspace) -> Path:
    return hdf5(path, kspace=kspace[:, 0])


def look_single_coil(path: Path) -> Pictures:
    images = fastmri.ifft2c(torch.view_as_real(torch.from_numpy(stored(path))))
    return np.asarray(fastmri.complex_abs(images))


def write_calgary(path: Path, kspace: Kspace) -> Path:
    images = sigpy.ifft(kspace, axes=(-2, -1))
    hybrid = np.moveaxis(np.fft.fftshift(np.fft.fft2(images), (-2, -1)), 1, -1)
    return hdf5(path, kspace=np.ascontiguousarray(hybrid, np.complex64).view(np.float32))


def look_calgary(path: Path) -> Pictures:
    """As the notebooks of the data set do: `numpy.fft.ifft2`, scaled by 1 / pixels."""
    parts = stored(path)
    images = np.fft.ifft2(parts[..., ::2] + 1j * parts[..., 1::2], axes=(1, 2))
    return np.sqrt((np.abs(images) ** 2).sum(-1)) * np.sqrt(ROWS * COLUMNS)


def write_skm_tea(path: Path, kspace: Kspace) -> Path:
    """x, ky, kz, echoes, coils."""
    echoes = np.stack([np.moveaxis(kspace, 1, -1), 3 * np.moveaxis(kspace, 1, -1)], axis=3)
    return hdf5(path, kspace=echoes, target=echoes[..., :1], maps=echoes[..., :1])


def look_skm_tea(path: Path) -> Pictures:
    return combined(stored(path)[:, :, :, 1], (1, 2), -1)


def write_prostate(path: Path, kspace: Kspace) -> Path:
    averages = np.zeros((3, *kspace.shape), np.complex64)
    averages[0, ..., ::2], averages[2, ..., ::2] = 0.9 * kspace[..., ::2], 1.1 * kspace[..., ::2]
    averages[1, ..., 1::2] = kspace[..., 1::2]
    return hdf5(path, kspace=averages, calibration_data=kspace[..., 8:32])


def look_prostate(path: Path) -> Pictures:
    averages = stored(path)
    whole = averages[1].copy()
    whole[..., ::2] = (averages[0] + averages[2])[..., ::2] / 2
    return combined(whole, (-2, -1), 1)


def write_cmrxrecon(path: Path, kspace: Kspace) -> Path:
    """MATLAB's (nx, ny, nc, nz, nt), here one frame."""
    array = np.transpose(kspace, (2, 3, 1, 0))[..., np.newaxis]
    path = path.with_suffix(".mat")
    hdf5storage.savemat(str(path), {"kspace_full": np.ascontiguousarray(array)}, format="7.3")
    return path


def look_cmrxrecon(path: Path) -> Pictures:
    array = hdf5storage.loadmat(str(path))["kspace_full"]
    return combined(np.transpose(array[..., 0], (3, 2, 0, 1)), (-2, -1), 1)


def write_coils_last(path: Path, kspace: Kspace) -> Path:
    """By JAX, PyTorch or anybody's script: NumPy's own format, coils where they do not belong."""
    np.save(path.with_suffix(".npy"), np.moveaxis(kspace, 1, -1).astype(np.complex128))
    return path.with_suffix(".npy")


def look_coils_last(path: Path) -> Pictures:
    return combined(np.load(path), (1, 2), -1)


def write_repetitions(path: Path, kspace: Kspace) -> Path:
    for number, factor in enumerate((0.5, 1.0, 1.5), start=1):
        hdf5(path.with_name(f"T10{number}.h5"), kspace=factor * kspace)
    return path.with_name("T101.h5")


def look_repetitions(path: Path) -> Pictures:
    files = sorted(path.parent.glob("T10?.h5"))
    return combined(np.mean([stored(file) for file in files], axis=0), (-2, -1), 1)


def write_ismrmrd(path: Path, kspace: Kspace) -> Path:
    header = mrd_files.header((2 * ROWS, COLUMNS, 1), (ROWS, COLUMNS, 1))
    acquisitions = [
        mrd_files.readout(slice_[:, :, line], line, slice=number)
        for number, slice_ in enumerate(wide(kspace))
        for line in range(COLUMNS)
    ]
    return mrd_files.write(path, header, acquisitions)


def look_ismrmrd(path: Path) -> Pictures:
    """As the tutorials of the format do."""
    kspace = np.zeros((SLICES, COILS, 2 * ROWS, COLUMNS), np.complex64)
    with ismrmrd.Dataset(str(path), mode="r") as file:
        for number in range(file.number_of_acquisitions()):
            line = file.read_acquisition(number)
            kspace[line.idx.slice, :, :, line.idx.kspace_encode_step_1] = line.data
    return narrow(combined(kspace, (-2, -1), 1))


def write_twix(path: Path, kspace: Kspace) -> Path:
    lines = [
        twix_files.line(slice_[..., k], Lin=k, Sli=number, centre_line=COLUMNS // 2)
        for number, slice_ in enumerate(wide(kspace))
        for k in range(COLUMNS)
    ]
    return twix_files.write(
        path.with_suffix(".dat"), (twix_files.protocol(flReadoutOSFactor=2.0), lines)
    )


def look_twix(path: Path) -> Pictures:
    """By twixtools, another reader than ours, line by line."""
    kspace = np.zeros((SLICES, COILS, 2 * ROWS, COLUMNS), np.complex64)
    for block in twix_files.lines_of(path):
        if block.is_image_scan():
            kspace[block.cSlc, :, :, block.cLin] = block.data
    return narrow(combined(kspace, (-2, -1), 1))


def write_bart(path: Path, kspace: Kspace) -> Path:
    """Its own phantom, of two slices that differ in strength."""
    bart(path.parent, "phantom", "-k", "-s", str(COILS), "-x", str(ROWS), "square")
    bart(path.parent, "resize", "-c", "1", str(COLUMNS), "square", "first")
    bart(path.parent, "scale", "0.5", "first", "second")
    bart(path.parent, "join", "13", "first", "second", "ksp")
    return path.with_name("ksp.cfl")


def look_bart(path: Path) -> Pictures:
    bart(path.parent, "fft", "-i", "-u", "3", "ksp", "images")
    bart(path.parent, "rss", "8", "images", "rss")
    found = np.fromfile(path.with_name("rss.cfl"), "<c8").reshape(ROWS, COLUMNS, 2, order="F")
    return np.moveaxis(found.real, -1, 0)


def bart(folder: Path, *arguments: str) -> None:
    program = shutil.which("bart")
    if program is None:
        pytest.skip("Debian's bart is not installed")
    subprocess.run([program, *arguments], check=True, cwd=folder, capture_output=True)


class Reader(NamedTuple):
    write: Callable[[Path, Kspace], Path]
    look: Callable[[Path], Pictures]
    axes: tuple[str, ...] | None = None
    select: dict[str, int] | None = None


READERS = {
    "fastMRI": Reader(write_fastmri, look_fastmri),
    "fastMRI, single coil": Reader(write_single_coil, look_single_coil),
    "M4Raw": Reader(write_repetitions, look_repetitions),
    "fastMRI prostate": Reader(write_prostate, look_prostate),
    "Calgary-Campinas": Reader(write_calgary, look_calgary),
    "SKM-TEA": Reader(write_skm_tea, look_skm_tea, select={"contrast": 1}),
    "CMRxRecon": Reader(write_cmrxrecon, look_cmrxrecon),
    "NumPy": Reader(write_coils_last, look_coils_last, axes=("slice", "row", "column", "coil")),
    "ISMRMRD": Reader(write_ismrmrd, look_ismrmrd),
    "Siemens twix": Reader(write_twix, look_twix),
    "BART": Reader(write_bart, look_bart),
}


@pytest.fixture(scope="module")
def kspace() -> Kspace:
    """Of heads that no turn and no mirror brings onto themselves."""
    made = simulate(SLICES, COILS, ROWS, COLUMNS, 60, 0)[0].kspace
    images = sigpy.ifft(made, axes=(-2, -1))
    images[..., 10:14, 25:31] *= 3
    return np.asarray(sigpy.fft(images, axes=(-2, -1)), np.complex64)


@pytest.mark.parametrize("name", READERS)
def test_the_picture_is_the_one_that_others_make_of_the_file(
    name: str, kspace: Kspace, tmp_path: Path
) -> None:
    reader = READERS[name]
    path = reader.write(tmp_path / "scan.h5", kspace)
    files = sorted(tmp_path.glob("T10?.h5")) or [path]
    scans = [read_scan(file, axes=reader.axes, select=reader.select) for file in files]
    ours = zero_filled(averaged(scans) if len(scans) > 1 else scans[0])
    theirs = reader.look(path)
    assert ours.shape == theirs.shape == (SLICES, ROWS, COLUMNS)
    peak = theirs.max()
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * peak)
    for turned in (theirs[:, ::-1], theirs[:, :, ::-1], theirs[:, ::-1, ::-1]):
        assert np.abs(ours - turned).max() > 0.1 * peak  # the object can tell them apart
    assert not np.allclose(ours[0], ours[1], atol=0.01 * peak)
