"""Results with one marked voxel, lying obliquely in space, made without reconstructing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.planes import ATTRIBUTE, ImagePlane, ImageStack
from recon.posterior import SlicePosterior
from service.exports.images import ResultImages, images_of
from tests.mrd_files import CENTRE, OBLIQUE, header

VOXEL = (1.5, 2.0, 4.0)
IDENTITY = (
    "<subjectInformation><patientName>Doe^Jane</patientName><patientID>ID4711</patientID>"
    "<patientBirthdate>1970-02-03</patientBirthdate><patientGender>F</patientGender>"
    "</subjectInformation><studyInformation><studyDate>2019-03-14</studyDate>"
    "<studyTime>22:34:35</studyTime><studyID>S77</studyID><accessionNumber>424242"
    "</accessionNumber><referringPhysicianName>Foo^Bar</referringPhysicianName>"
    "<studyInstanceUID>1.2.3.4567</studyInstanceUID></studyInformation>"
    "<measurementInformation><measurementID>M4711</measurementID><patientPosition>HFS"
    "</patientPosition><protocolName>Jane knee</protocolName><frameOfReferenceUID>1.2.3.89"
    "</frameOfReferenceUID></measurementInformation><acquisitionSystemInformation>"
    "<systemVendor>SIEMENS</systemVendor><institutionName>St. Elsewhere</institutionName>"
    "<stationName>MR-ROOM-9</stationName><deviceSerialNumber>SN4567</deviceSerialNumber>"
    "</acquisitionSystemInformation>"
)
IDENTIFYING = (
    "Doe", "Jane", "ID4711", "19700203", "20190314", "223435", "S77", "424242", "Foo", "1.2.3.4567",
    "M4711", "1.2.3.89", "Elsewhere", "MR-ROOM", "SN4567",
)  # fmt: skip


def posterior(index: int, image: NDArray[np.float32]) -> SlicePosterior:
    """A posterior of this mean and a tenth of it as standard deviation; the rest is filler."""
    zeros = np.zeros_like(image)
    return SlicePosterior(
        index=index,
        mean=(image * np.exp(0.3j)).astype(np.complex64),
        samples=image[np.newaxis].astype(np.complex64),
        coarse=image.astype(np.complex64),
        magnitude_std=image / 10,
        phase_std=zeros,
        quantiles=np.stack([zeros] * 4),
        mean_error=zeros,
        rhat=zeros,
        effective_samples=zeros,
        chi2_per_coil=np.ones(1, np.float32),
        object_mask=np.ones(image.shape, np.bool_),
        sensitivity=np.ones(image.shape, np.float32),
        noise_std=1.0,
        scale=1.0,
        evaluations=1,
        converged=True,
        warnings=(),
        self_check=None,
    )


def position_of(slice_: int, row: int, column: int, slices: int, shape: tuple[int, int]) -> NDArray:
    """Millimetres of a voxel by the convention: voxel n // 2 of every axis lies at CENTRE."""
    away = [
        (index - size // 2) * voxel * np.array(direction)
        for index, size, voxel, direction in zip(
            (row, column, slice_), (*shape, slices), VOXEL, OBLIQUE, strict=True
        )
    ]
    return np.array(CENTRE) + sum(away)


def mark_of(shape: tuple[int, int], keep: tuple[int, int] | None) -> tuple[int, int]:
    """Far from the first voxel, so that spacing counts, and in no corner of a mirrored image."""
    rows, columns = keep or shape
    return shape[0] // 2 - rows // 2 + rows - 1, shape[1] // 2 - columns // 2 + 1


def marked(
    shape: tuple[int, int],
    slices: int = 3,
    keep: tuple[int, int] | None = None,
    *,
    repetitions: int = 1,
    identified: bool = False,
    part: str = "BRAIN",
) -> ResultImages:
    """Voxel `mark_of` of the first slice is 9, all others lie between 1 and 2."""
    kept = keep or shape
    rng = np.random.default_rng(0)
    posteriors, planes = [], []
    for repetition in range(repetitions):
        for slice_ in range(slices):
            image = rng.uniform(1, 2, shape).astype(np.float32)
            if slice_ == 0:
                image[mark_of(shape, keep)] = 9
            posteriors.append(posterior(len(planes), image))
            middle = (shape[0] // 2, shape[1] // 2)
            where = position_of(slice_, *middle, slices, shape)
            planes.append(
                ImagePlane(tuple(where), *OBLIQUE, {"slice": slice_, "repetition": repetition})
            )
    stack = ImageStack(VOXEL, kept, tuple(planes))
    attributes = {
        ATTRIBUTE: stack.to_text(),
        "input_sha256": "ab" * 32,
        "model_sha256": "cd" * 32,
        "model_id": "gaussian",
        "seed": 7,
        "samples": 4,
        "acceleration": 4.0,
        "created": "2026-01-02T03:04:05+00:00",
        "software_version": "0.1.0",
    }
    body = f"<bodyPartExamined>{part}</bodyPartExamined></studyInformation>"
    xml = header((*shape, 1), extra=IDENTITY.replace("</studyInformation>", body))
    return images_of(posteriors, attributes, xml, identified)
