"""What the products of a reconstruction are called."""

from __future__ import annotations

RESULT_FILES = {
    "result.h5": "application/x-hdf5",
    "dicom.zip": "application/zip",
    "mean.nii.gz": "application/gzip",
    "std.nii.gz": "application/gzip",
    "mean.npy": "application/octet-stream",
    "std.npy": "application/octet-stream",
    "samples.npy": "application/octet-stream",
    "coarse.npy": "application/octet-stream",
    "report.json": "application/json",
}
"""Products of a reconstruction that are files, and their media types."""
IMAGE_FILES = ("dicom.zip", "mean.nii.gz", "std.nii.gz")
"""Those that are missing where nothing is known of the images' place and size."""

MARKER = "report.json"
"""The product that is written last: where it is, all are."""
