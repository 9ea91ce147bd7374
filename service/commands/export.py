"""`mri-posterior export`: a result as DICOM, NIfTI or MRD images."""

from __future__ import annotations

import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.exports.dicom import write_dicom
from service.exports.images import load_images
from service.exports.mrd import write_mrd
from service.exports.nifti import write_nifti

output = Console()


class Format(StrEnum):
    """What results can be exported to."""

    DICOM = "dicom"
    NIFTI = "nifti"
    MRD = "mrd"


def export(
    result: Annotated[Path, typer.Argument(help="Result of `reconstruct`.")],
    to: Annotated[Format, typer.Option(help="dicom, nifti or mrd.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder (dicom), .nii.gz (nifti) or .h5 (mrd).")
    ],
    identified: Annotated[
        bool, typer.Option(help="Keep the patient's name, numbers, dates and the institution.")
    ] = False,
    parametric_map: Annotated[
        bool, typer.Option(help="DICOM: the standard deviation also as float Parametric Map.")
    ] = False,
    voxel: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Assume axial images of this voxel size (mm) if the scan is silent."),
    ] = None,
    uid_key: Annotated[
        str | None,
        typer.Option(
            envvar="MRI_POSTERIOR_UID_KEY",
            help="Secret that UIDs derive from; the same key gives the same UIDs [random].",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No list of files.")] = False,
) -> None:
    """Write mean and standard deviation for other programs; nothing that identifies, by default."""
    images = load_images(result, identified=identified, voxel_mm=voxel)
    if to is Format.DICOM:
        key = secrets.token_bytes(32) if uid_key is None else uid_key.encode()
        written = write_dicom(images, out, key, parametric_map=parametric_map)
    elif to is Format.NIFTI:
        written = write_nifti(images, out)
    else:
        written = write_mrd(images, out)
    if not quiet:
        output.print(f"written: {len(written)} files, the first {written[0]}")
