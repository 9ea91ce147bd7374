"""NIfTI-1 volumes, mean and standard deviation, each with a JSON sidecar."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from service.exports.images import NOT_FOR_DIAGNOSIS, ResultImages

_ESTIMATE = 1001
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNEVEN_MM = 0.05


def write_nifti(images: ResultImages, path: Path) -> list[Path]:
    """Write `path` (.nii or .nii.gz), `…_std` beside it and their sidecars; returns all four.

    Images that differ in more than their place become the fourth axis.

    Raises:
        ScanError: Slices are not evenly spaced, or the name has another suffix.
    """
    suffix = suffix_of(path)
    volumes = images.volumes()
    affine = _common_affine(images, volumes)
    stem = path.name.removesuffix(suffix)
    written = []
    for name, values in ((stem, images.mean), (f"{stem}_std", images.std)):
        volume = nifti_image(images, values, volumes, affine)
        file = path.with_name(name + suffix)
        nibabel.save(volume, file)
        sidecar = path.with_name(f"{name}.json")
        sidecar.write_text(json.dumps(_sidecar(images, name), indent=2) + "\n", encoding="utf-8")
        written += [file, sidecar]
    return written


def nifti_image(
    images: ResultImages,
    values: NDArray[np.float32],
    volumes: list[list[int]],
    affine: NDArray[np.float64],
) -> nibabel.Nifti1Image:
    """Volumes of `values` (images, rows, columns); several are the fourth axis."""
    stacked = np.stack([np.moveaxis(values[group], 0, -1) for group in volumes], axis=-1)
    array = stacked[..., 0] if len(volumes) == 1 else stacked
    volume = nibabel.Nifti1Image(np.asarray(array, np.float32), affine)
    volume.header.set_qform(affine, code=1)
    volume.header.set_sform(affine, code=1)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = f"{NOT_FOR_DIAGNOSIS}, mri-posterior".encode()
    if values is images.std:
        volume.header.set_intent(_ESTIMATE, name="posterior std")
    return volume


def suffix_of(path: Path) -> str:
    """`.nii.gz` or `.nii`. Raises ScanError."""
    suffix = next((s for s in (".nii.gz", ".nii") if path.name.endswith(s)), None)
    if suffix is None:
        raise ScanError("nifti-name", "a NIfTI file is named .nii.gz or .nii; rename it")
    return suffix


def affine_of(images: ResultImages, group: list[int]) -> NDArray[np.float64]:
    """(4, 4) from (row, column, slice) indices to millimetres right-left, back-front, foot-head.

    Raises ScanError where slices are not evenly spaced along one line.
    """
    stack, shape = images.stack, images.mean.shape[1:]
    first = [stack.first_voxel(index, (shape[0], shape[1])) for index in group]
    plane = stack.planes[group[0]]
    if len(group) > 1:
        steps = np.diff(first, axis=0)
        step = steps.mean(axis=0)
        if np.abs(steps - step).max() > _UNEVEN_MM or np.linalg.norm(step) < _UNEVEN_MM:
            raise ScanError(
                "slices-uneven",
                "the slices are not evenly spaced, which NIfTI cannot say; export them as DICOM",
            )
    else:
        step = np.array(plane.slice_dir) * stack.voxel_mm[2]
    affine = np.eye(4)
    affine[:3, 0] = np.array(plane.read_dir) * stack.voxel_mm[0]
    affine[:3, 1] = np.array(plane.phase_dir) * stack.voxel_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = first[0]
    return np.asarray(_RAS @ affine)


def _common_affine(images: ResultImages, volumes: list[list[int]]) -> NDArray[np.float64]:
    affines = [affine_of(images, group) for group in volumes]
    unequal = any(not np.allclose(affine, affines[0], atol=_UNEVEN_MM) for affine in affines)
    if unequal or len({len(group) for group in volumes}) > 1:
        raise ScanError(
            "volumes-differ",
            "the volumes of this result lie in different places; export them as DICOM",
        )
    return affines[0]


def _sidecar(images: ResultImages, name: str) -> dict[str, object]:
    return {
        **images.attributes,
        "Product": "standard deviation" if name.endswith("_std") else "mean",
        "Derivation": images.derivation,
        "OrientationKnown": images.located,
        "Verdicts": images.verdicts,
        "NotForDiagnosticUse": True,
        "Volumes": [images.stack.planes[group[0]].labels for group in images.volumes()],
    }
