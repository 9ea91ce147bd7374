from __future__ import annotations

import io
import lzma
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from service.training.labels import read_label_volumes


def labels() -> NDArray[np.int16]:
    volume = np.zeros((12, 10, 8), np.int16)
    volume[2:10, 2:8, 1:7] = 3
    volume[5, 4, 2] = 507
    return volume


def test_arrays_plain_and_compressed_are_read_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", labels())
    buffer = io.BytesIO()
    np.save(buffer, labels())
    (tmp_path / "b.npy.xz").write_bytes(lzma.compress(buffer.getvalue()))
    (tmp_path / "notes.txt").write_text("nothing")
    volumes = read_label_volumes([tmp_path])
    assert len(volumes) == 2
    for volume in volumes:
        np.testing.assert_array_equal(volume, labels())


def test_nifti_is_brought_to_one_millimetre_and_its_axes_to_ras(tmp_path: Path) -> None:
    # Two-millimetre voxels whose first axis points to the left.
    image = nibabel.Nifti1Image(labels(), np.diag([-2.0, 2.0, 2.0, 1.0]))
    nibabel.save(image, tmp_path / "head.nii.gz")
    (volume,) = read_label_volumes([tmp_path / "head.nii.gz"])
    assert volume.shape == (24, 20, 16)
    np.testing.assert_array_equal(volume[::2, ::2, ::2][:, 4:5, 2:3], labels()[::-1][:, 4:5, 2:3])
    assert set(np.unique(volume)) == {0, 3, 507}


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (np.zeros((4, 4)), "no volume of whole numbers"),
        (np.full((4, 4, 4), 0.5), "no volume of whole numbers"),
        (np.arange(1000).reshape(10, 10, 10), "an image, not a segmentation"),
    ],
)
def test_what_is_no_segmentation_is_refused_by_name(
    tmp_path: Path, volume: NDArray[np.generic], reason: str
) -> None:
    np.save(tmp_path / "a.npy", volume)
    with pytest.raises(ScanError, match=rf"a\.npy .*{reason}"):
        read_label_volumes([tmp_path])


def test_pickles_and_torn_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ScanError, match="cannot be read"):
        read_label_volumes([tmp_path / "a.npy"])
    (tmp_path / "b.npy.xz").write_bytes(b"\xfd7zXZ\x00torn")
    with pytest.raises(ScanError, match="cannot be read"):
        read_label_volumes([tmp_path / "b.npy.xz"])
    with pytest.raises(ScanError, match="does not exist"):
        read_label_volumes([tmp_path / "c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="no segmentation"):
        read_label_volumes([tmp_path / "empty"])
