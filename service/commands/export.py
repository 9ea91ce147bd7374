"""`mri-posterior export`: a result in the formats of other programs, or sent to a PACS."""

from __future__ import annotations

import secrets
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recon.errors import ScanError
from service.commands.options import Overwrite
from service.commands.outputs import about, require_folder, require_writable

if TYPE_CHECKING:
    from recon.posterior import Delivery
    from service.exports.images import ResultImages

output = Console()
_console = Console(stderr=True)

_IMAGES = "Images for other programs"

Identified = Annotated[
    bool,
    typer.Option(help="Keep the patient's name, numbers, dates.", rich_help_panel=_IMAGES),
]
Voxel = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="Assume axial images of such voxels (mm).", rich_help_panel=_IMAGES),
]
UidKey = Annotated[
    str | None,
    typer.Option(
        envvar="MRI_POSTERIOR_UID_KEY",
        metavar="TEXT",
        help="Secret of the UIDs; the same key, the same UIDs [random].",
        rich_help_panel=_IMAGES,
    ),
]


Fallback = Annotated[
    bool,
    typer.Option("--fallback", help="Not trusted: the classical image.", rich_help_panel=_IMAGES),
]
AcceptRefused = Annotated[
    bool,
    typer.Option(
        "--accept-refused",
        help="Refused: the posterior all the same, not an empty image.",
        rich_help_panel=_IMAGES,
    ),
]


class Format(StrEnum):
    """What results can be exported to."""

    DICOM = "dicom"
    NIFTI = "nifti"
    MRD = "mrd"
    BIDS = "bids"
    BART = "bart"
    FASTMRI = "fastmri"


def export(
    result: Annotated[Path, typer.Argument(help="Result of `reconstruct`.")],
    to: Annotated[
        Format,
        typer.Option(metavar="FORMAT", help="dicom, nifti, mrd, bids, bart or fastmri."),
    ] = Format.DICOM,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder (dicom, bids), .nii.gz (nifti), .cfl (bart) or .h5 (mrd, fastmri).",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(help="Send DICOM to this target of the settings; --out is not needed then."),
    ] = None,
    identified: Identified = False,
    parametric_map: Annotated[
        bool, typer.Option(help="DICOM: the standard deviation also as float Parametric Map.")
    ] = False,
    overview: Annotated[
        bool, typer.Option(help="DICOM: also one page, as Secondary Capture.")
    ] = False,
    bids_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="BIDS: the raw image that it stands for: sub-01_T1w."),
    ] = None,
    voxel: Voxel = None,
    uid_key: UidKey = None,
    fallback: Fallback = False,
    accept_refused: AcceptRefused = False,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No list of files.")] = False,
) -> None:
    """Write a result in the format of other programs.

    Mean and standard deviation; nothing that identifies, unless asked for. bart has the samples
    too, fastmri is what fastMRI's evaluation takes.
    """
    if push is not None and to is not Format.DICOM:
        raise typer.BadParameter("only DICOM is sent; leave --to out")
    if push is None and out is None:
        raise typer.BadParameter("say where to write it: --out, or --push TARGET")
    if (to is Format.BIDS) != (bids_name is not None):
        raise typer.BadParameter("--to bids and --bids-name NAME go together")
    if to in (Format.DICOM, Format.BIDS) and out is not None:
        require_folder(out)
    elif out is not None:
        require_writable(_files(to, out), (result,), overwrite=overwrite)
    from recon.posterior import Delivery  # lazy: loads numpy

    delivery = Delivery(fallback, accept_refused)
    with about(result):
        if out is not None and to in (Format.BART, Format.FASTMRI):
            written = _arrays(result, to, out, delivery)
        elif out is not None and to is not Format.DICOM:
            images = _load(result, delivery, identified=identified, voxel=voxel)
            written = _images(images, to, out, bids_name or "")
        else:
            images = _load(result, delivery, identified=identified, voxel=voxel)
            written = _dicom(images, out, push, _key(uid_key), parametric_map=parametric_map,
                             overview=overview, quiet=quiet)  # fmt: skip
    if written and not quiet:
        output.print(f"written: {len(written)} files, the first {written[0]}")


def _files(to: Format, out: Path) -> list[Path]:
    """What is written under a name; raises ScanError where the name says another format."""
    from service.exports.bart import bart_files  # lazy: loads ismrmrd

    return bart_files(out) if to is Format.BART else [out]


def _load(
    result: Path,
    delivery: Delivery,
    *,
    identified: bool,
    voxel: tuple[float, float, float] | None,
) -> ResultImages:
    from service.exports.images import load_images  # lazy: slow to load

    return load_images(result, identified=identified, voxel_mm=voxel, delivery=delivery)


def _dicom(
    images: ResultImages,
    out: Path | None,
    push: str | None,
    key: bytes,
    *,
    parametric_map: bool,
    overview: bool,
    quiet: bool,
) -> list[Path]:
    """Write and send; without a folder the files are for sending only."""
    from service.exports.dicom import write_dicom  # lazy: loads pydicom

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if out is None else out
        files = write_dicom(images, place, key, parametric_map=parametric_map, overview=overview)
        if push is not None:
            _push(push, files, quiet=quiet)
        return [] if out is None else files


def _images(images: ResultImages, to: Format, out: Path, bids_name: str) -> list[Path]:
    from service.exports.bids import write_bids  # lazy: loads nibabel
    from service.exports.mrd import write_mrd  # lazy: loads ismrmrd
    from service.exports.nifti import write_nifti  # lazy: loads nibabel

    if to is Format.BIDS:
        return write_bids(images, out, bids_name)
    return write_nifti(images, out) if to is Format.NIFTI else write_mrd(images, out)


def _arrays(result: Path, to: Format, out: Path, delivery: Delivery) -> list[Path]:
    """Formats that say nothing of the patient's space."""
    from recon.io.files import read_result, read_result_header  # lazy: slow to load
    from recon.posterior import delivered  # lazy: the same
    from service.exports.bart import write_bart  # lazy: the same
    from service.exports.fastmri import write_fastmri  # lazy: the same

    posteriors, attributes = read_result(result)
    chosen = delivery.beyond(attributes)
    posteriors = [delivered(posterior, chosen) for posterior in posteriors]
    if to is Format.BART:
        return write_bart(posteriors, attributes, out)
    return write_fastmri(posteriors, read_result_header(result), out)


def write_exports(
    result: Path,
    dicom: Path | None,
    nifti: Path | None,
    uid_key: str | None,
    *,
    identified: bool,
    voxel: tuple[float, float, float] | None,
) -> list[Path]:
    """The same beside a reconstruction; returns what to name in its summary. Raises ScanError."""
    if dicom is None and nifti is None:
        return []
    from service.exports.dicom import write_dicom  # lazy: loads pydicom
    from service.exports.images import load_images  # lazy: slow to load
    from service.exports.nifti import write_nifti  # lazy: loads nibabel

    images = load_images(result, identified=identified, voxel_mm=voxel)
    written = []
    if dicom is not None:
        write_dicom(images, dicom, _key(uid_key))
        written.append(dicom)
    if nifti is not None:
        written.append(write_nifti(images, nifti)[0])
    return written


def require_exportable(nifti: Path | None) -> None:
    """Refuse a wrong name before minutes of work, not after them. Raises ScanError."""
    if nifti is not None:
        from service.exports.nifti import suffix_of  # lazy: loads nibabel

        suffix_of(nifti)


def _push(name: str, files: list[Path], *, quiet: bool) -> None:
    from service.delivery.sending import push  # lazy: loads the service's database
    from service.settings import SettingsError, load_settings  # lazy: slow to load

    settings = load_settings()
    target = settings.delivery_targets.get(name)
    if target is None:
        known = ", ".join(settings.delivery_targets) or "none"
        raise SettingsError(
            f"there is no target '{name}' (known: {known}); "
            "set MRI_POSTERIOR_DELIVERY_TARGETS or the table in the settings file"
        )
    outcome = push(settings, target, files, _console.print)
    if outcome.failures:
        for uid, reason in list(outcome.failures.items())[:10]:
            _console.print(f"{uid}: {reason}")
        raise ScanError(
            "delivery-failed",
            f"{len(outcome.failures)} of {len(files)} images were not stored by {name}",
        )
    if not quiet:
        output.print(f"sent: {len(outcome.stored)} images to {name}")


def _key(uid_key: str | None) -> bytes:
    return secrets.token_bytes(32) if uid_key is None else uid_key.encode()
