"""The products of a reconstruction: the one table of files that it leaves behind.

The worker writes them by it, HTTP serves and describes them by it, the viewer, the command line and
the documentation say what is in them by it.
"""

from __future__ import annotations

from typing import NamedTuple


class Product(NamedTuple):
    """One kind of file."""

    name: str
    media_type: str
    contents: str
    """What is in it, in a few words."""
    array: str | None = None
    """The field of `SlicePosterior` that it stacks, slices third from last; None: no array."""
    needs_place: bool = False
    """Whether it is missing where nothing is known of the images' place and size."""


_ARRAY = "application/octet-stream"
_NIFTI = "application/gzip"

RESULT = "result.h5"
MARKER = "report.json"
"""The product that is written last: where it is, all are."""

PRODUCTS = {
    product.name: product
    for product in (
        Product(RESULT, "application/x-hdf5", "everything, HDF5"),
        Product(
            "dicom.zip",
            "application/zip",
            "mean and standard deviation, DICOM; the latter as Parametric Map too",
            needs_place=True,
        ),
        Product("mean.nii.gz", _NIFTI, "magnitude of the posterior mean, NIfTI", needs_place=True),
        Product(
            "std.nii.gz", _NIFTI, "standard deviation of the magnitude, NIfTI", needs_place=True
        ),
        Product("mean.npy", _ARRAY, "posterior mean, complex, NumPy", "mean"),
        Product("std.npy", _ARRAY, "standard deviation of the magnitude, NumPy", "magnitude_std"),
        Product("samples.npy", _ARRAY, "all samples, complex, NumPy", "samples"),
        Product("coarse.npy", _ARRAY, "first reconstruction, complex, NumPy", "coarse"),
        Product(MARKER, "application/json", "what was asked, chosen and reached, JSON"),
    )
}
"""By name, in the order in which they are listed."""
