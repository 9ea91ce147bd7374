"""BIDS derivatives: mean and standard deviation as NIfTI, named after the raw image they stand for.

dataset_description.json  README.md  descriptions.tsv
sub-01/anat/sub-01_desc-posteriorMean_T1w.nii.gz    and its sidecar .json
sub-01/anat/sub-01_desc-posteriorStd_T1w.nii.gz     and its sidecar .json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel

from recon.errors import ScanError
from recon.posterior import UNITS
from service.bids_names import BidsName
from service.exports.images import ResultImages
from service.exports.nifti import affine_of, nifti_image

_VERSION = "1.10.0"
_DESCRIPTIONS = {
    "posteriorMean": "Magnitude of the mean of the posterior given the measured k-space",
    "posteriorStd": "Standard deviation of the magnitude under that posterior",
}
_README = """# Posterior reconstructions

Written by mri-posterior from undersampled k-space. `desc-posteriorMean` is the reconstruction,
`desc-posteriorStd` how far it may be off: the standard deviation of the magnitude under the
posterior, in the same units. Not for diagnostic use.
"""


def write_bids(images: ResultImages, folder: Path, name: str) -> list[Path]:
    """Write the derivatives of the raw image `name` into the dataset `folder`, which may hold more.

    Several repetitions are told apart by `run`, several contrasts by `echo`. Returns the images.

    Raises:
        ScanError: No such name in BIDS; the folder is a dataset of another kind; images of cardiac
            phases or sets, for which BIDS has no name; slices not evenly spaced.
    """
    raw = BidsName.of(name)
    _describe_dataset(folder, images)
    place = folder / raw.folder()
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for group, more in _numbered(images, raw):
        affine = affine_of(images, group)
        for description, values in (("posteriorMean", images.mean), ("posteriorStd", images.std)):
            stem = raw.derivative(description, more)
            file = place / f"{stem}.nii.gz"
            nibabel.save(nifti_image(images, values, [group], affine), file)
            _write_json(place / f"{stem}.json", _sidecar(images, description, more))
            written.append(file)
    return written


def _numbered(images: ResultImages, raw: BidsName) -> list[tuple[list[int], dict[str, int]]]:
    """Every volume, and the entities by which it differs from the others."""
    groups = images.volumes()
    labels = [images.stack.planes[group[0]].labels for group in groups]
    varied = {
        name
        for name in {name for label in labels for name in label} - {"slice", "partition"}
        if len({label.get(name, 0) for label in labels}) > 1
    }
    entities = {"repetition": "run", "contrast": "echo"}
    for name in varied:
        if name not in entities:
            raise ScanError(
                "bids-images",
                f"BIDS has no name for images that differ by {name}; export them as NIfTI",
            )
        if entities[name] in raw.entities:
            raise ScanError(
                "bids-name",
                f"leave {entities[name]} out of the BIDS name; the result has several, which are "
                "numbered",
            )
    if raw.suffix in ("MEGRE", "MESE") and "echo" not in raw.entities:
        varied.add("contrast")  # their echoes are numbered always
    return [
        (group, {entities[name]: label.get(name, 0) + 1 for name in varied})
        for group, label in zip(groups, labels, strict=True)
    ]


def _describe_dataset(folder: Path, images: ResultImages) -> None:
    """The files of a dataset of derivatives, where there are none."""
    description = folder / "dataset_description.json"
    if description.exists():
        try:
            kind = json.loads(description.read_bytes())["DatasetType"]
        except (ValueError, TypeError, KeyError):
            kind = "raw"
        if kind != "derivative":
            raise ScanError(
                "bids-dataset",
                f"{folder} is a dataset of raw data; name its folder derivatives/mri-posterior",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    version = str(images.attributes.get("software_version", "unknown"))
    _write_json(
        description,
        {
            "Name": "Posterior reconstructions",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "mri-posterior", "Version": version}],
        },
    )
    (folder / "README.md").write_text(_README, encoding="utf-8")
    rows = "".join(f"desc-{name}\t{text}\n" for name, text in _DESCRIPTIONS.items())
    (folder / "descriptions.tsv").write_text("desc_id\tdescription\n" + rows, encoding="utf-8")
    _write_json(folder / "descriptions.json", {"Description": "What each desc- label stands for"})


def _sidecar(images: ResultImages, description: str, more: dict[str, int]) -> dict[str, Any]:
    """The keys of the standard, then ours."""
    header = images.header
    system = getattr(header, "acquisitionSystemInformation", None)
    sequence = getattr(header, "sequenceParameters", None)
    echo = more.get("echo", 1) - 1
    return {
        name: value
        for name, value in {
            "Description": _DESCRIPTIONS[description],
            "SkullStripped": False,
            "Units": str(images.attributes.get("units", UNITS)),
            "Manufacturer": getattr(system, "systemVendor", None),
            "ManufacturersModelName": getattr(system, "systemModel", None),
            "MagneticFieldStrength": getattr(system, "systemFieldStrength_T", None),
            "RepetitionTime": _seconds(getattr(sequence, "TR", ()), 0),
            "EchoTime": _seconds(getattr(sequence, "TE", ()), echo),
            "InversionTime": _seconds(getattr(sequence, "TI", ()), 0) or None,
            "FlipAngle": next(iter(getattr(sequence, "flipAngle_deg", ())), None),
            "MriPosterior": {
                **images.attributes,
                "derivation": images.derivation,
                "orientation_known": images.located,
                "verdicts": images.verdicts,
                "not_for_diagnostic_use": True,
            },
        }.items()
        if value is not None
    }


def _seconds(milliseconds: Any, index: int) -> float | None:  # noqa: ANN401  # of a schema class
    values = list(milliseconds or ())
    return float(values[index]) / 1000 if index < len(values) else None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
