"""Small files of each kind that hospitals keep, made with the libraries that define the kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1, 0, 0, 0, 1, 0)


def blob(slices: int = 4, rows: int = 72, columns: int = 80, seed: int = 0) -> NDArray[np.float64]:
    """(slices, rows, columns) a bright ellipse with texture in the dark, 0 to about 1."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 < 1
    return np.stack([inside * random.uniform(0.5, 1, (rows, columns)) for _ in range(slices)])


def write_nifti(
    path: Path, values: NDArray[Any], affine: NDArray[Any] | Sequence[float] = (1, 1, 3)
) -> Path:
    """`affine` may be the spacing along the axes of an array that runs to left, posterior, up."""
    matrix = np.asarray(affine, float)
    if matrix.ndim == 1:
        matrix = np.diag([-matrix[0], -matrix[1], matrix[2], 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, matrix), path)
    return path


def write_dicom(path: Path, pixels: NDArray[np.uint16], **changes: Any) -> Path:
    """One classic MR image; `changes` are elements by keyword, None removes one."""
    image = dicom_header(CLASSIC, **changes)
    if image.get("SamplesPerPixel") is None:
        image.SamplesPerPixel = 1
    set_pixels(image, pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def dicom_header(kind: str, **changes: Any) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    defaults = {
        "SOPClassUID": kind,
        "SOPInstanceUID": generate_uid(),
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
        "PatientName": "DOE^JANE",
        "PatientID": "MRN12345",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.1",
        "FrameOfReferenceUID": "1.2.3.9",
        "AcquisitionTime": "120000",
        "InstanceNumber": 1,
        "EchoTime": 90,
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": [0, 0, 0],
        "PixelSpacing": [1, 1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
    }
    for keyword, value in {**defaults, **changes}.items():
        if value is not None:
            setattr(image, keyword, value)
    return image


def set_pixels(image: Dataset, pixels: NDArray[np.uint16]) -> None:
    image.Rows, image.Columns = pixels.shape[-2:]
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.PixelData = pixels.astype("<u2").tobytes()


def group(**elements: Any) -> DicomSequence:
    """A functional group: a sequence of one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return DicomSequence([item])


def damaged(content: bytes, header: range, seed: int) -> bytes:
    """A few bytes of the header changed; now and then cut short."""
    random = np.random.default_rng(seed)
    changed = bytearray(content)
    for place in random.integers(header.start, header.stop, random.integers(1, 9)):
        changed[place] = random.choice([0, 255, random.integers(256)])
    return bytes(changed[: random.integers(len(changed))] if random.random() < 0.1 else changed)
