"""A marked corner from raw data to each format: where it was scanned is where it is found."""

from __future__ import annotations

from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.spatial import PixelToReferenceTransformer
from numpy.typing import NDArray

from recon.io.files import read_scan
from recon.quick_look import zero_filled
from service.exports.dicom import write_dicom
from service.exports.images import ResultImages, images_of
from service.exports.mrd import write_mrd
from service.exports.nifti import write_nifti
from tests.mrd_files import CENTRE, OBLIQUE, fourier, header, lines, readout, write
from tests.service.marked_results import posterior

VOXEL = (1.5, 2.0, 4.0)
CASES = {
    "even": ((8, 6, 1), 8),
    "odd": ((7, 5, 1), 7),
    "wide": ((6, 11, 1), 6),
    "tall": ((12, 5, 1), 12),
    "oversampled": ((8, 7, 1), 16),
    "oversampled, odd": ((7, 6, 1), 14),
    "volume": ((8, 6, 4), 8),
    "odd volume": ((7, 6, 5), 7),
}


def scanned(case: str, folder: Path) -> tuple[ResultImages, NDArray[np.float64]]:
    """What is reconstructed of an object with one bright corner, and where that corner lies."""
    (x, y, z), read = CASES[case]
    corner = (x - 1, 0, z - 1)
    image = np.full((read, y, z), 1, np.complex64)
    first = read // 2 - x // 2
    image[first + corner[0], corner[1], corner[2]] = 40
    kspace = fourier(image, (0, 1, 2))
    xml = header((read, y, z), (x, y, z), voxel=VOXEL)
    if z == 1:
        acquisitions = list(lines(kspace[np.newaxis, :, :, 0]))
    else:
        acquisitions = [
            readout(kspace[np.newaxis, :, row, slab], row, slab)
            for row in range(y)
            for slab in range(z)
        ]
    scan = read_scan(write(folder / "raw.h5", xml, acquisitions))
    posteriors = [posterior(k, picture) for k, picture in enumerate(zero_filled(scan))]
    images = images_of(posteriors, dict(scan.attributes), scan.header, identified=False)
    assert images.mean.shape == (z, x, y)
    away = [
        (index - size // 2) * voxel * np.array(direction)
        for index, size, voxel, direction in zip(corner, (x, y, z), VOXEL, OBLIQUE, strict=True)
    ]
    return images, np.array(CENTRE) + sum(away)


@pytest.mark.parametrize("case", CASES)
def test_the_corner_is_where_it_was_scanned(case: str, tmp_path: Path) -> None:
    images, truth = scanned(case, tmp_path)
    found = {
        "DICOM": _in_dicom(images, tmp_path / "dicom"),
        "NIfTI": _in_nifti(images, tmp_path / "a.nii.gz"),
        "MRD": _in_mrd(images, tmp_path / "images.h5"),
    }
    for name, place in found.items():
        np.testing.assert_allclose(place, truth, atol=2e-3, err_msg=name)


def _in_dicom(images: ResultImages, folder: Path) -> NDArray[np.float64]:
    write_dicom(images, folder, b"key")
    means = [pydicom.dcmread(file) for file in sorted(folder.glob("mean_*.dcm"))]
    data = max(means, key=lambda each: each.pixel_array.max())
    row, column = np.unravel_index(np.argmax(data.pixel_array), data.pixel_array.shape)
    place = PixelToReferenceTransformer(
        data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    )
    return place(np.array([[column, row]]))[0]


def _in_nifti(images: ResultImages, path: Path) -> NDArray[np.float64]:
    volume = nibabel.load(write_nifti(images, path)[0])
    values = volume.get_fdata()
    index = np.unravel_index(np.argmax(values), values.shape)
    x, y, z = nibabel.affines.apply_affine(volume.affine, index)
    return np.array([-x, -y, z])


def _in_mrd(images: ResultImages, path: Path) -> NDArray[np.float64]:
    write_mrd(images, path)
    with ismrmrd.Dataset(str(path), mode="r") as file:
        stored = [file.read_image("image_1", k) for k in range(len(images.mean))]
    image = max(stored, key=lambda each: each.data.max())
    y, x = np.unravel_index(np.argmax(image.data[0, 0]), image.data.shape[2:])
    size = np.array(image.matrix_size[:2])
    away = (np.array([x, y]) - size // 2) * np.array(image.field_of_view[:2]) / size
    return np.array(image.position) + away @ np.array([image.read_dir, image.phase_dir])
