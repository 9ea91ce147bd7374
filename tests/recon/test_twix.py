"""Siemens raw data: what twixtools writes and a scanner wrote is read as others read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import examine_scan, read_scan
from recon.io.mrd_header import parse_header
from recon.io.read_limits import ReadLimits
from recon.phantom import simulate
from recon.planes import ATTRIBUTE, ImageStack
from tests.mrd_files import fourier, noise
from tests.twix_files import POSITION, line, lines_of, protocol, write, write_vb

SHARED = Path(__file__).parents[3] / "shared/data"
GENUINE = SHARED / "raw/gre.dat"
ROWS, COLUMNS = 48, 40
Kspace = NDArray[np.complex64]


@pytest.fixture(scope="module")
def wide() -> Kspace:
    """(slices, coils, rows, columns), the readout oversampled twice."""
    images = np.zeros((2, 3, 2 * ROWS, COLUMNS), np.complex64)
    images[:, :, ROWS // 2 : ROWS // 2 + ROWS] = small(
        simulate(2, 3, ROWS, COLUMNS, 60, 0)[0].kspace
    )
    return fourier(images, (-2, -1))


def small(kspace: Kspace) -> Kspace:
    """The images."""
    shifted = np.fft.ifftshift(kspace, (-2, -1))
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), (-2, -1)).astype(np.complex64)


def lines(kspace: Kspace, chosen: range | list[int], flags: tuple[str, ...] = (), **more: int):  # type: ignore[no-untyped-def]
    return [line(kspace[..., k], flags, Lin=k, centre_line=COLUMNS // 2, **more) for k in chosen]


def test_slices_averages_noise_and_oversampling(wide: Kspace, tmp_path: Path) -> None:
    alone = noise(3, 96)
    blocks = [line(alone, ("NOISEADJSCAN",))]
    for number, average in np.ndindex(2, 2):
        scaled = wide[number] * (0.5, 1.5)[average]
        blocks += lines(scaled, range(COLUMNS), Sli=number, Ave=average)
    path = write(tmp_path / "a.dat", (protocol(flReadoutOSFactor=2.0), blocks))
    seen = examine_scan(path)
    assert (seen.format, seen.shape) == ("Siemens twix", (2, 3, ROWS, COLUMNS))
    scan = read_scan(path)
    np.testing.assert_allclose(
        small(scan.kspace), small(wide)[:, :, ROWS // 2 : ROWS // 2 + ROWS], atol=1e-4
    )
    assert scan.attributes["averages"] == 2
    # 76800 / 96 tenths of a microsecond against 2.5 us; the receiver's share; two averages.
    expected = alone * np.sqrt(80 / 2.5 / 0.793 / 2)
    np.testing.assert_allclose(scan.noise_samples, expected, rtol=1e-5)
    assert scan.geometry.field_of_view_mm == (200.0, 180.0, 5.0)
    stack = ImageStack.from_text(str(scan.attributes[ATTRIBUTE]))
    assert stack.voxel_mm == pytest.approx((200 / ROWS, 180 / COLUMNS, 5))
    assert stack.planes[1].position == POSITION
    header = parse_header(str(scan.header))
    assert header.sequenceParameters is not None
    assert (header.sequenceParameters.TR, header.sequenceParameters.TE) == ([500.0], [8.0])
    assert header.acquisitionSystemInformation is not None
    assert header.acquisitionSystemInformation.systemModel == "Prisma"
    assert header.studyInformation is not None
    assert header.studyInformation.bodyPartExamined == "BRAIN"


def test_vb_and_xa_are_read_as_ve_is(wide: Kspace, tmp_path: Path) -> None:
    """VB: one measurement without a directory, a header for every channel. XA: as VE, by name."""
    sizes = {"flReadoutOSFactor": 2.0}
    noisy = [line(noise(3, 96), ("NOISEADJSCAN",))]
    known = protocol(software="syngo MR E11", **sizes)
    ve = read_scan(write(tmp_path / "ve.dat", (known, noisy + lines(wide[0], range(COLUMNS)))))
    newer = protocol(software="syngo MR XA30", **sizes)
    xa = read_scan(write(tmp_path / "xa.dat", (newer, noisy + lines(wide[0], range(COLUMNS)))))
    old = [line(noise(3, 96), ("NOISEADJSCAN",), vb=True)]
    old += lines(wide[0], range(COLUMNS), vb=True)
    path = write_vb(tmp_path / "vb.dat", protocol(software="syngo MR B17", **sizes), old)
    theirs = [block for block in lines_of(path) if block.is_image_scan()]
    assert len(theirs) == COLUMNS
    np.testing.assert_array_equal(theirs[7].data, wide[0][..., 7])
    assert examine_scan(path).format == "Siemens twix"
    vb = read_scan(path)
    for other in (xa, vb):
        np.testing.assert_array_equal(other.kspace, ve.kspace)
        np.testing.assert_array_equal(other.noise_samples, ve.noise_samples)
        assert other.geometry == ve.geometry
        assert other.attributes[ATTRIBUTE] == ve.attributes[ATTRIBUTE]
    cut = path.with_name("cut.dat")
    cut.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ScanError) as caught:
        read_scan(cut)
    assert caught.value.code in {"twix-cut-short", "twix-damaged"}


def test_partial_fourier_reflected_lines_and_asymmetric_echoes(
    wide: Kspace, tmp_path: Path
) -> None:
    blocks = lines(wide[0], range(10, COLUMNS - 1))
    for block, k in zip(blocks, range(10, COLUMNS - 1), strict=True):
        block.mdh.Counter.Lin, block.mdh.CenterLin = k - 10, COLUMNS // 2 - 10
    turned = line(
        wide[0][:, ::-1, -1], ("REFLECT",), Lin=COLUMNS - 11, centre_line=COLUMNS // 2 - 10
    )
    header = protocol(flReadoutOSFactor=2.0, iPEFTLength=COLUMNS)
    scan = read_scan(write(tmp_path / "a.dat", (header, [*blocks, turned])))
    assert scan.mask[0].tolist() == [False] * 10 + [True] * 30
    cut = small(fourier(small(wide[0]), (1, 2)) * scan.mask[0])[:, ROWS // 2 : ROWS // 2 + ROWS]
    np.testing.assert_allclose(small(scan.kspace)[0], cut, atol=1e-4)
    short = [
        line(wide[0][:, 30:, k], Lin=k, centre=ROWS - 30, centre_line=COLUMNS // 2)
        for k in range(COLUMNS)
    ]
    echo = read_scan(write(tmp_path / "b.dat", (protocol(flReadoutOSFactor=2.0), short)))
    assert echo.mask[:, 0].tolist() == [False] * 30 + [True] * 66
    np.testing.assert_array_equal(echo.kspace[0][:, 30:], wide[0][:, 30:])


def test_separate_calibration_and_noise_of_an_earlier_measurement(
    wide: Kspace, tmp_path: Path
) -> None:
    alone = noise(3, 64)
    blocks = lines(wide[0], list(range(2, COLUMNS, 3)))
    blocks += lines(wide[0], range(12, 28), ("PATREFSCAN",))
    path = write(
        tmp_path / "a.dat",
        (protocol(), [line(alone, ("NOISEADJSCAN",))]),
        (protocol(flReadoutOSFactor=2.0, reference=4), blocks),
    )
    scan = read_scan(path)
    assert np.flatnonzero(scan.mask[0]).tolist() == list(range(2, COLUMNS, 3))
    assert scan.calibration is not None
    assert np.flatnonzero((scan.calibration != 0).any((0, 1, 2))).tolist() == list(range(12, 28))
    assert scan.noise_samples is not None
    assert scan.noise_samples.shape == (3, 64)


@pytest.mark.parametrize(
    "change", ["cut", "directory", "samples", "epi", "sms", "no view", "header", "indices"]
)
def test_what_cannot_be_read_is_refused(change: str, wide: Kspace, tmp_path: Path) -> None:
    flags = ("SLICE_ACCEL_REFSCAN",) if change == "sms" else ()
    header = protocol(epi=7) if change == "epi" else protocol()
    if change == "no view":
        header = header.replace(b"dReadoutFOV", b"xReadoutFOV")
    if change == "indices":  # a list as long as this would fill any memory
        header = header.replace(b"asSlice[0].dPhaseFOV = 180.0", b"asSlice[999999999].x =     1")
    path = write(tmp_path / "a.dat", (header, lines(wide[0], range(COLUMNS), flags)))
    content = bytearray(path.read_bytes())
    if change == "cut":
        content = content[: len(content) // 2]
    if change == "directory":
        content = content[:9000]
    if change == "samples":  # of the first readout, behind the header
        at = 10240 + int.from_bytes(content[10240:10244], "little")
        content[at + 48 : at + 50] = b"\xff\xff"
    if change == "header":
        content[10240:10244] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    codes = {
        "cut": {"twix-cut-short"}, "directory": {"unknown-format", "twix-cut-short"},
        "samples": {"twix-damaged", "twix-cut-short"},
        "epi": {"unsupported-trajectory"}, "sms": {"twix-sequence"}, "no view": {"twix-geometry"},
        "header": {"twix-cut-short", "twix-damaged", "unreadable"},
        "indices": {"reader-memory", "twix-damaged", "twix-geometry", "unreadable"},
    }  # fmt: skip
    with pytest.raises(ScanError) as caught:
        read_scan(path, limits=ReadLimits(memory_bytes=1 << 30, cpu_seconds=20))
    assert caught.value.code in codes[change]


def test_a_genuine_file_gives_the_picture_that_others_make_of_it(tmp_path: Path) -> None:
    if not GENUINE.is_file():
        pytest.skip("the shared Siemens file is not here")
    scan = read_scan(GENUINE)
    ours = np.sqrt((np.abs(small(scan.kspace)) ** 2).sum(1))[0]
    with h5py.File(SHARED / "scans/gre_phantom_2ch_skyra.h5") as file:
        stored = np.sqrt((np.abs(small(file["kspace"][:])) ** 2).sum(1))[0, 80:240]
    assert np.corrcoef(ours.ravel(), stored.ravel())[0, 1] > 0.9999
    bart = shutil.which("bart")
    if bart is None:
        pytest.skip("Debian's bart is not installed")
    for arguments in (
        ("twixread", "-A", str(GENUINE), "ksp"),
        ("fft", "-i", "-u", "3", "ksp", "coils"),
        ("rss", "8", "coils", "rss"),
    ):
        subprocess.run([bart, *arguments], check=True, cwd=tmp_path, capture_output=True)
    sizes = [int(n) for n in (tmp_path / "rss.hdr").read_text().split("\n")[1].split()]
    theirs = np.fromfile(tmp_path / "rss.cfl", "<c8").real
    theirs = theirs.reshape(sizes[:2], order="F")[80:240]
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * theirs.max())
