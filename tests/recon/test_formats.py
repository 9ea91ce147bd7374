"""Every format that is read, as others write it, gives the same k-space; the rest is named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from recon.errors import ScanError
from recon.io.files import examine_scan, read_scan
from recon.io.formats import FORMATS, recognise
from recon.io.layouts import LAYOUTS
from recon.phantom import simulate
from recon.scan import averaged

ROWS, COLUMNS = 48, 40
Kspace = NDArray[np.complex64]


@pytest.fixture(scope="module")
def truth() -> Kspace:
    """(slices, coils, rows, columns)."""
    return simulate(2, 4, ROWS, COLUMNS, 60, 0)[0].kspace


def hdf5(path: Path, matlab: bool = False, **arrays: Any) -> Path:
    with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
        for name, value in arrays.items():
            file[name] = value
            if matlab:
                file[name].attrs["MATLAB_class"] = np.bytes_(b"single")
    if matlab:
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created by: others".ljust(512))
    return path


def as_matlab(kspace: Kspace) -> NDArray[np.void]:
    """Axes reversed, and complex numbers as MATLAB names their parts."""
    parts = np.empty(kspace.shape, [("real", "<f4"), ("imag", "<f4")])
    parts["real"], parts["imag"] = kspace.real, kspace.imag
    return parts


def fastmri(path: Path, k: Kspace) -> Path:
    return hdf5(path, kspace=k, reconstruction_rss=np.ones((2, 8, 8), np.float32))


def cmrxrecon(path: Path, k: Kspace) -> Path:
    """MATLAB's (nx, ny, nc, nz, nt): frames first here, and rows last."""
    return hdf5(path, matlab=True, kspace_full=as_matlab(k.swapaxes(-2, -1)[None]))


def calgary(path: Path, k: Kspace) -> Path:
    """K-space by plain fft2, shifted afterwards; real and imaginary parts of the coils in turn."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, (-2, -1))), (-2, -1))
    hybrid = np.moveaxis(np.fft.fftshift(np.fft.fft2(images), (-2, -1)), 1, -1)
    pairs = np.ascontiguousarray(hybrid, np.complex64).view(np.float32)
    return hdf5(path, kspace=pairs)


def skm_tea(path: Path, k: Kspace) -> Path:
    both = np.stack([np.moveaxis(k, 1, -1), 2 * np.moveaxis(k, 1, -1)], axis=3)
    return hdf5(path, kspace=both, target=both[..., :1], maps=both[..., :1])


def prostate(path: Path, k: Kspace) -> Path:
    """Two of the three averages have the even lines, one the odd."""
    averages = np.zeros((3, *k.shape), np.complex64)
    averages[0, ..., ::2], averages[2, ..., ::2] = 0.9 * k[..., ::2], 1.1 * k[..., ::2]
    averages[1, ..., 1::2] = k[..., 1::2]
    return hdf5(path, kspace=averages, calibration_data=k[..., 8:32])


def npy(path: Path, k: Kspace) -> Path:
    np.save(path.with_suffix(".npy"), k.astype(np.complex128))
    return path.with_suffix(".npy")


def npz(path: Path, k: Kspace) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), kspace=k, mask=np.ones(COLUMNS))
    return path.with_suffix(".npz")


def cfl(path: Path, k: Kspace) -> Path:
    """As BART's own writecfl: column-major, slices along dimension 13."""
    array = np.transpose(k, (2, 3, 1, 0))
    shape = (ROWS, COLUMNS, 1, 4, *(1 for _ in range(9)), 2, 1, 1)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, shape))}\n")
    array.reshape(-1, order="F").astype("<c8").tofile(path.with_suffix(".cfl"))
    return path.with_suffix(".cfl")


WRITERS: dict[str, Callable[[Path, Kspace], Path]] = {
    "fastmri": fastmri,
    "cmrxrecon": cmrxrecon,
    "calgary-campinas": calgary,
    "skm-tea": skm_tea,
    "fastmri-prostate": prostate,
    "npy": npy,
    "npz": npz,
    "cfl": cfl,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_gives_the_same_kspace(name: str, truth: Kspace, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / "scan.h5", truth)
    seen = examine_scan(path)
    select = {"contrast": 0} if name == "skm-tea" else None
    scan = read_scan(path, select=select)
    np.testing.assert_allclose(scan.kspace, truth, atol=1e-5 * np.abs(truth).max())
    assert seen.shape[1:] == truth.shape[1:]
    assert seen.shape[0] == 2 * (2 if name == "skm-tea" else 1)
    if name in {layout.name for layout in LAYOUTS}:
        assert seen.layout == name
        named = read_scan(path, select=select, layout=name)
        np.testing.assert_array_equal(named.kspace, scan.kspace)
        with pytest.raises(ScanError, match="this is not"):
            read_scan(path, layout="fastmri" if name != "fastmri" else "skm-tea")
    if name == "fastmri-prostate":
        assert scan.calibration is not None
        np.testing.assert_array_equal(scan.calibration[..., 8:32], truth[..., 8:32])


def test_echoes_and_frames_are_images_of_their_own(truth: Kspace, tmp_path: Path) -> None:
    both = read_scan(skm_tea(tmp_path / "a.h5", truth))
    np.testing.assert_allclose(both.kspace, np.concatenate([truth, 2 * truth]), rtol=1e-6)
    lines = np.zeros((2, COLUMNS), bool)
    lines[0, ::2] = lines[1, 1::2] = lines[:, 14:26] = True
    frames = (truth * lines[:, None, None, None]).swapaxes(-2, -1)
    path = hdf5(tmp_path / "b.mat", matlab=True, kspace_sub04=as_matlab(frames))
    with pytest.raises(ScanError, match="--select phase=0") as caught:
        read_scan(path)
    assert caught.value.code == "patterns-differ"
    for frame in range(2):
        scan = read_scan(path, select={"phase": frame})
        np.testing.assert_array_equal(scan.mask[0], lines[frame])
        np.testing.assert_array_equal(scan.kspace, truth * lines[frame])
    with pytest.raises(ScanError, match="there is no phase 2; the scan has 2"):
        read_scan(path, select={"phase": 2})


def test_axes_can_be_named(truth: Kspace, tmp_path: Path) -> None:
    last = hdf5(tmp_path / "a.h5", kspace=np.moveaxis(truth, 1, -1))
    with pytest.raises(ScanError):
        read_scan(last)
    scan = read_scan(last, axes=("slice", "row", "column", "coil"))
    np.testing.assert_array_equal(scan.kspace, truth)
    np.save(tmp_path / "b.npy", truth[0])
    with pytest.raises(ScanError, match="--axes coil,row,column"):
        read_scan(tmp_path / "b.npy")
    one = read_scan(tmp_path / "b.npy", axes=("coil", "row", "column"))
    np.testing.assert_array_equal(one.kspace, truth[:1])
    parts = np.stack([truth.real, truth.imag], axis=2)
    path = hdf5(tmp_path / "c.h5", raw=parts)
    pair = read_scan(path, axes=("slice", "coil", "part", "row", "column"))
    np.testing.assert_array_equal(pair.kspace, truth)
    for axes, code in ((("row", "column"), "axes"), (("row",) * 5, "axes")):
        with pytest.raises(ScanError) as caught:
            read_scan(path, axes=axes)
        assert caught.value.code == code


def test_partitions_become_slices(truth: Kspace, tmp_path: Path) -> None:
    volume = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(truth, 0), axis=0, norm="ortho"), 0)
    np.save(tmp_path / "a.npy", volume)
    scan = read_scan(tmp_path / "a.npy", axes=("partition", "coil", "row", "column"))
    np.testing.assert_allclose(scan.kspace, truth, atol=1e-5 * np.abs(truth).max())


def test_what_is_no_kspace_is_said_with_what_the_file_holds(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", image=np.ones((2, 4, 4)), weights=np.ones(3))
    with pytest.raises(ScanError, match=r"'image' \(2, 4, 4\), 'weights' \(3,\)") as caught:
        read_scan(path)
    assert caught.value.code == "no-kspace"
    path = hdf5(tmp_path / "b.h5", kspace=np.ones((1, 1, 1, 1, 4, 4), np.complex64))
    with pytest.raises(ScanError, match="--axes") as caught:
        read_scan(path)
    assert caught.value.code == "kspace-shape"


def test_diffusion_of_fastmri_prostate_is_refused(truth: Kspace, tmp_path: Path) -> None:
    path = prostate(tmp_path / "a.h5", truth)
    with h5py.File(path, "a") as file:
        file["coil_sens_maps"] = np.ones((2, 4, ROWS, COLUMNS), np.complex64)
        file["phase_correction"] = np.ones((2, 4, ROWS, 3), np.complex64)
    with pytest.raises(ScanError, match="regrid and phase-correct") as caught:
        read_scan(path)
    assert caught.value.code == "unsupported-trajectory"


def p_file(path: Path) -> Path:
    path.write_bytes(b"\0" * 34 + b"GE_MED_NMR" + b"\0" * 4096)
    return path


def dicom(path: Path) -> Path:
    shutil.copy(pydicom.data.get_testdata_file("MR_small.dcm"), path)
    return path


def nifti(path: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), path.with_suffix(".nii"))
    return path.with_suffix(".nii")


def old_matlab(path: Path) -> Path:
    scipy_io = pytest.importorskip("scipy.io")
    scipy_io.savemat(path, {"kspace": np.ones((4, 4), complex)})
    return path


def philips(path: Path) -> Path:
    path.with_suffix(".lab").write_bytes(b"\0" * 600)
    return path.with_suffix(".lab")


def bruker(path: Path) -> Path:
    path.with_name("rawdata.job0").write_bytes(b"\0" * 600)
    return path.with_name("rawdata.job0")


def half(path: Path) -> Path:
    path.with_suffix(".cfl").write_bytes(b"\0" * 64)
    return path.with_suffix(".cfl")


@pytest.mark.parametrize(
    ("write", "name", "says"),
    [
        (p_file, "GE P-file", "ge_to_ismrmrd"),
        (philips, "Philips raw data", "philips_to_ismrmrd"),
        (bruker, "Bruker raw data", "bruker_to_ismrmrd"),
        (dicom, "DICOM", "raw data"),
        (nifti, "NIfTI", "raw data"),
        (old_matlab, "MATLAB before 7.3", "-v7.3"),
        (half, "BART cfl alone", ".hdr beside it"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(
    write: Callable[[Path], Path], name: str, says: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "file.mat")
    assert recognise(path)[0].name == name
    with pytest.raises(ScanError, match=says) as caught:
        read_scan(path)
    assert caught.value.code == "format-not-read"


def test_packed_files_and_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "scan.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "scan.h5")
    shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path, "scan.h5")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    for name, says in (("a.zip", "unpack"), ("a.tar.gz", "unpack"), ("a.png", "k-space is needed")):
        with pytest.raises(ScanError, match=says) as caught:
            read_scan(tmp_path / name)
        assert caught.value.code == "format-not-read"


def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"anything at all")
    with pytest.raises(ScanError, match="Siemens twix") as caught:
        read_scan(tmp_path / "a")
    assert caught.value.code == "unknown-format"
    assert len({known.name for known in FORMATS}) == len(FORMATS)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\x93NUMPY\x01\x00" + b"x" * 100, "array-file"),
        ("object", "array-file"),
        ("longer than it is", "array-file"),
        ("text", "array-type"),
    ],
)
def test_arrays_that_lie_are_refused(content: bytes | str, code: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    if content == "object":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif content == "longer than it is":
        np.save(path, np.ones((4, 4, 4, 4), np.complex64))
        path.write_bytes(path.read_bytes()[:-1])
    elif content == "text":
        np.save(path, np.array([["a", "b"]]))
    else:
        path.write_bytes(content)  # type: ignore[arg-type]
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert caught.value.code == code


def test_an_archive_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", kspace=np.zeros((1, 1, 4096, 1024), np.complex64))
    with pytest.raises(ScanError) as caught:
        read_scan(tmp_path / "a.npz")
    assert caught.value.code == "too-large"


def test_bart_files_whose_halves_disagree_are_refused(truth: Kspace, tmp_path: Path) -> None:
    path = cfl(tmp_path / "a.h5", truth)
    path.with_suffix(".cfl").write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert caught.value.code == "bart-size"
    for header in ("", "# Dimensions\n-1 4\n", "# Dimensions\nmany\n", "# D\n4 4 1 1 7\n"):
        path.with_suffix(".hdr").write_text(header)
        path.write_bytes(b"\0" * 8 * 112)
        with pytest.raises(ScanError) as caught:
            read_scan(path)
        assert caught.value.code in {"bart-header", "bart-dimension"}


def test_barts_own_phantom_is_read_as_bart_sees_it(tmp_path: Path) -> None:
    bart = shutil.which("bart")
    if bart is None:
        pytest.skip("Debian's bart is not installed")

    def run(*arguments: str) -> None:
        subprocess.run([bart, *arguments], check=True, cwd=tmp_path, capture_output=True)

    run("phantom", "-k", "-s", "4", "-x", "64", "ksp")
    run("fft", "-i", "-u", "3", "ksp", "coils")
    run("rss", "8", "coils", "rss")
    scan = read_scan(tmp_path / "ksp.cfl")
    assert scan.kspace.shape == (1, 4, 64, 64)
    shifted = np.fft.ifftshift(scan.kspace, (-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), (-2, -1))
    theirs = np.fromfile(tmp_path / "rss.cfl", "<c8")[: 64 * 64].reshape(64, 64, order="F")
    ours = np.sqrt((np.abs(images) ** 2).sum(1))[0]
    np.testing.assert_allclose(ours, theirs.real, atol=1e-5 * ours.max())


def test_repetitions_in_files_of_their_own_are_averaged(truth: Kspace, tmp_path: Path) -> None:
    """As M4Raw has them: one file a repetition."""
    files = [fastmri(tmp_path / f"T10{k}.h5", truth * (0.5 + k)) for k in range(3)]
    scan = averaged([read_scan(file) for file in files])
    np.testing.assert_allclose(scan.kspace, 1.5 * truth, rtol=1e-6)
    assert scan.attributes["averages"] == 3
    half = truth.copy()
    half[..., ::2] = 0
    with_half = averaged([read_scan(files[0]), read_scan(fastmri(tmp_path / "h.h5", half))])
    np.testing.assert_allclose(with_half.kspace[..., ::2], 0.5 * truth[..., ::2], rtol=1e-6)
    np.testing.assert_allclose(with_half.kspace[..., 1::2], 0.75 * truth[..., 1::2], rtol=1e-6)
    with pytest.raises(ScanError) as caught:
        averaged([scan, read_scan(fastmri(tmp_path / "other.h5", truth[:, :2]))])
    assert caught.value.code == "repetitions-differ"
