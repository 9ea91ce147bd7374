"""`mri-posterior region`: the mean of a region of a result, with the interval that it lies in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from service.commands.export import Voxel
from service.commands.options import AsJson
from service.commands.outputs import about

if TYPE_CHECKING:
    from recon.regions import Region

output = Console()


def region(
    result: Annotated[Path, typer.Argument(help="Result of `reconstruct`.")],
    mask: Annotated[
        Path,
        typer.Argument(help="Region: labels drawn on the exported NIfTI, or a .npy of the result."),
    ],
    reference: Annotated[
        Path | None, typer.Option(help="A second region, for the difference.")
    ] = None,
    label: Annotated[int | None, typer.Option(help="Value in the masks [all but 0].")] = None,
    reference_label: Annotated[
        int | None, typer.Option(help="Value of the second region [that of the first].")
    ] = None,
    volume: Annotated[int | None, typer.Option(min=0, help="Which volume of several.")] = None,
    voxel: Voxel = None,
    as_json: AsJson = False,
) -> None:
    """Mean magnitude of a region in 2-D or 3-D and its 90 % interval, from the samples.

    With a second region (the same file does, with another label) also the difference. Samples of
    neighbouring slices belong together, so that regions over several slices are judged rightly.
    """
    from recon.arrays import open_result  # lazy: loads HDF5
    from service.exports.images import load_images  # lazy: loads pydicom
    from service.exports.masks import read_array_mask, read_nifti_mask  # lazy: loads nibabel

    with about(result):
        posterior = open_result(result)
        shape = (len(posterior), *posterior.mean.shape[-2:])

    def of(path: Path, value: int | None) -> Region:
        with about(path):
            if path.suffix == ".npy":
                return posterior.region(read_array_mask(path, shape, value))
            images = load_images(result, voxel_mm=voxel)
            return posterior.region(read_nifti_mask(path, images, shape, value, volume))

    found = {"region": of(mask, label)}
    if reference is not None or reference_label is not None:
        other = label if reference_label is None else reference_label
        found["reference"] = of(reference or mask, other)
        found["difference"] = found["region"] - found["reference"]
    joint = any(posterior.attributes.get(name) for name in ("slice_coherence", "volume"))
    alone = len(posterior) > 1 and not joint
    if as_json:
        from service.region_answers import Interval  # lazy: loads pydantic

        told = {name: Interval.of(one).model_dump() for name, one in found.items()} | {
            "joint": not alone
        }
        sys.stdout.write(json.dumps(told | {"joint": not alone}, indent=2) + "\n")
        return
    for name, one in found.items():
        low, high = one.interval()
        output.print(
            f"{name:<11}{one.mean:.4g} ± {one.std:.2g}, 90 % in {low:.4g} to {high:.4g} "
            f"({one.values.size} samples, {one.method})",
            highlight=False,
        )
    if alone:
        output.print(
            "The slices were sampled one by one (--slice-coherence 0, or an older result): the "
            "interval of a region over several slices is too narrow.",
            highlight=False,
        )
