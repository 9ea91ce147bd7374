"""K-space that does not follow the conventions is mended or refused, never taken as it is."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.conventions import centred, places_of, require_coil_axis
from recon.io.files import read_scan
from recon.io.scan_layout import scan_from_layout
from recon.phantom import simulate
from recon.scan import Scan
from recon.undersampling import undersampling_mask
from tests.recon.scan_files import noise, store

SCANS = Path(__file__).parents[3] / "shared/data/scans"


def phantom(rows: int, columns: int) -> NDArray[np.complex64]:
    """(1, 4, rows, columns) with the zero frequency at n // 2 and the object in the middle."""
    return simulate(1, 4, rows, columns, 50, 0)[0].kspace.copy()


def layout(kspace: NDArray[np.complex64], fftshift: bool | None = None) -> Scan:
    return scan_from_layout({"kspace": kspace.copy()}, {}, None, None, "", fftshift)


def refusal(kspace: NDArray[np.complex64], fftshift: bool | None = None) -> str:
    with pytest.raises(ScanError) as caught:
        layout(kspace, fftshift)
    return caught.value.code


@pytest.mark.parametrize("shape", [(64, 64), (63, 50), (48, 65)])
@pytest.mark.parametrize("axes", [(-2,), (-1,), (-2, -1)])
@pytest.mark.parametrize("acceleration", [1, 4])
def test_frequencies_in_the_corner_are_refused_and_mended(
    shape: tuple[int, int], axes: tuple[int, ...], acceleration: int
) -> None:
    right = phantom(*shape)
    right *= undersampling_mask(shape, "equispaced", acceleration, 0.15, 1)
    wrong = np.fft.ifftshift(right, axes)
    with pytest.raises(ScanError, match="--fftshift") as caught:
        layout(wrong)
    assert caught.value.code == "kspace-not-centred"
    scan = layout(wrong, fftshift=True)
    np.testing.assert_array_equal(scan.kspace, right)
    np.testing.assert_array_equal(scan.mask, (right != 0).any((0, 1)))
    np.testing.assert_array_equal(layout(wrong, fftshift=False).kspace, wrong)


@pytest.mark.parametrize("shape", [(64, 64), (63, 50)])
@pytest.mark.parametrize("shift", [True, False])
def test_an_origin_in_the_corner_is_refused_and_mended(shape: tuple[int, int], shift: bool) -> None:
    right = phantom(*shape)
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(right, (-2, -1))), (-2, -1))
    naive = np.fft.fft2(coils)  # as so many scripts simulate k-space
    if shift:
        naive = np.fft.fftshift(naive, (-2, -1))
    naive = naive.astype(np.complex64)
    assert refusal(naive) == ("image-not-centred" if shift else "kspace-not-centred")
    mended = layout(naive, fftshift=True).kspace
    np.testing.assert_allclose(mended, right, atol=1e-5 * np.abs(right).max())


def test_a_centre_at_neither_place_is_refused_even_when_asked_to_shift() -> None:
    partial = phantom(64, 64)[..., 24:]  # lines of a partial acquisition cut off, not zeroed
    with pytest.raises(ScanError, match="column 8 of 40") as caught:
        layout(partial)
    assert caught.value.code == "kspace-not-centred"
    assert refusal(partial, fftshift=True) == "kspace-not-centred"
    filled = np.zeros((1, 4, 64, 64), np.complex64)
    filled[..., 24:] = partial
    assert layout(filled).mask.sum() == 64 * 40


def test_the_file_reader_looks(tmp_path: Path) -> None:
    right = phantom(32, 32)
    path = store(tmp_path / "scan.h5", kspace=np.fft.ifftshift(right, (-2, -1)))
    with pytest.raises(ScanError, match="--fftshift"):
        read_scan(path)
    np.testing.assert_array_equal(read_scan(path, fftshift=True).kspace, right)


@pytest.mark.parametrize("name", sorted(path.name for path in SCANS.glob("*.h5")))
def test_real_scans_are_where_they_should_be(name: str) -> None:
    with h5py.File(SCANS / name) as file:
        if "kspace" not in file:
            pytest.skip("readouts, not an array")
        kspace = file["kspace"][:1]
    kspace = kspace if kspace.ndim == 4 else kspace[:, None]
    mask = (kspace != 0).any((0, 1))
    for sampled in (mask, mask & undersampling_mask(mask.shape, "equispaced", 4, 0.08, 0)):
        places = places_of(kspace * sampled, sampled)
        assert places.frequency == (None, None)
        assert places.origin == (False, False)
    require_coil_axis(kspace)


def test_noise_and_thin_scans_have_no_centre_to_be_wrong() -> None:
    for shape in ((1, 1, 64, 64), (2, 3, 15, 200), (1, 1, 1, 5)):
        mask = np.ones(shape[2:], bool)
        places = places_of(noise(*shape), mask)
        assert places.frequency == (None, None)
        assert places.origin == (False, False)
        np.testing.assert_array_equal(centred(noise(*shape), mask)[0], noise(*shape))


def test_coils_in_the_last_place_are_refused_by_name() -> None:
    with pytest.raises(ScanError, match="--axes slice,row,column,coil") as caught:
        layout(np.moveaxis(phantom(64, 64), 1, -1))
    assert caught.value.code == "coil-axis"
    require_coil_axis(noise(1, 64, 32, 20))  # many coils of few samples are possible
