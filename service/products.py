"""The products of a reconstruction: the one table of files that it leaves behind.

The worker writes them by it, HTTP serves and describes them by it, the viewer, the command line and
the documentation say what is in them by it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Product(NamedTuple):
    """One kind of file."""

    name: str
    media_type: str
    contents: str
    """What is in it, in a few words."""
    array: str | None = None
    """The field of `SlicePosterior` that it stacks, slices third from last; None: no array."""
    absent: str | None = None
    """Why it may be missing, and what helps; None: it never is."""


_ARRAY = "application/octet-stream"
_NIFTI = "application/gzip"
_PLACELESS = "the scan does not say where its images lie or how large they are; give voxel_mm"

_TRUSTED = "all slices are trusted: there is nothing to look at beside the posterior"

RESULT = "result.h5"
DICOM = "dicom.zip"
BIDS = "bids.zip"
MARKER = "report.json"
"""The product that is written last: where it is, all are."""

PRODUCTS = {
    product.name: product
    for product in (
        Product(RESULT, "application/x-hdf5", "everything, HDF5"),
        Product(
            DICOM,
            "application/zip",
            "mean and standard deviation, the latter as Parametric Map too, and an overview; DICOM",
            absent=_PLACELESS,
        ),
        Product("mean.nii.gz", _NIFTI, "magnitude of the posterior mean, NIfTI", absent=_PLACELESS),
        Product(
            "std.nii.gz", _NIFTI, "standard deviation of the magnitude, NIfTI", absent=_PLACELESS
        ),
        Product(
            BIDS,
            "application/zip",
            "mean and standard deviation, BIDS derivatives; where `bids_name` was given",
            absent="name the raw image with bids_name, and give voxel_mm where the scan does not "
            "say where its images lie or how large they are",
        ),
        Product("mean.npy", _ARRAY, "posterior mean, complex, NumPy", "mean"),
        Product("std.npy", _ARRAY, "standard deviation of the magnitude, NumPy", "magnitude_std"),
        Product("samples.npy", _ARRAY, "all samples, complex, NumPy", "samples"),
        Product("coarse.npy", _ARRAY, "first reconstruction, complex, NumPy", "coarse"),
        Product(
            "classical.npy",
            _ARRAY,
            "L1-wavelet image, of slices that are not trusted, complex, NumPy",
            "classical",
            absent=_TRUSTED,
        ),
        Product(
            "difference.npy",
            _ARRAY,
            "magnitude of the mean less that of the classical image, NumPy",
            "difference",
            absent=_TRUSTED,
        ),
        Product(MARKER, "application/json", "what was asked, chosen and reached, JSON"),
    )
}
"""By name, in the order in which they are listed."""


class DicomSeries(StrEnum):
    """What the files of `dicom.zip` show, one series each; all that a delivery can be asked for."""

    MEAN = "mean"
    STD = "std"
    MAP = "map"
    """The standard deviation in float, as Parametric Map."""
    OVERVIEW = "overview"
    """One page with mean, standard deviation and first reconstruction, as Secondary Capture."""

    @property
    def number(self) -> int:
        """Added to a hundred times the scan's own series number."""
        return 1 + list(DicomSeries).index(self)

    def file(self, number: int) -> str:
        """Name of its file of this number, from 1."""
        return f"{self._stem}_{number:04d}.dcm"

    @classmethod
    def of(cls, file: str) -> DicomSeries:
        """The series that a file of `dicom.zip` belongs to. Raises KeyError for other names."""
        return {series._stem: series for series in cls}[file.rpartition("_")[0]]

    @property
    def _stem(self) -> str:
        return "std_map" if self is DicomSeries.MAP else self.value
