"""One reconstruction from file to file, as the command line does it; workers share its parts."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from models import DEFAULT_MODEL as DEFAULT_MODEL
from models.conformal_factors import ConformalFactor
from models.denoiser import NetworkPrior
from models.loading import load_prior
from models.registry import read_config
from recon.errors import ScanError
from recon.evaluation import Evaluation, evaluate
from recon.io.files import (
    read_calibration,
    read_mask,
    read_result,
    read_result_mask,
    read_scan,
    write_result,
)
from recon.io.layouts import parse_axes
from recon.pipeline import Event, reconstruct
from recon.planes import ATTRIBUTE as IMAGE_PLANES
from recon.posterior import PLAIN, UNITS, Delivery, SlicePosterior
from recon.reference import Combination, Reference, reference_of
from recon.scan import Scan, averaged
from recon.settings import Settings
from service.conformal_scaling import attributes_of, factor_for, sentence_of, widen_all
from service.finished_slices import FinishedSlices, choices_digest
from service.verdicts import typical_of


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU when there is one. Raises ScanError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ScanError("no-such-device", "no CUDA device is available; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ScanError(
            "no-such-device", f"'{name}' is not a device; use auto, cpu or cuda"
        ) from error


def parse_selection(texts: Sequence[str]) -> dict[str, int]:
    """`repetition=0` and the like, as counters of images. Raises ScanError."""
    chosen = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value.isdecimal():
            raise ScanError("selection", f"'{text}' is not a counter; write repetition=0")
        chosen[name] = int(value)
    return chosen


def load_scan(
    path: Path,
    mask: Path | None = None,
    maps: Path | None = None,
    select: Mapping[str, int] | None = None,
    *,
    fftshift: bool | None = None,
    layout: str | None = None,
    axes: str | None = None,
    calibration: Path | None = None,
    repetitions: Sequence[Path] = (),
) -> Scan:
    """The scan, with a mask, coil maps or calibration lines from other files where given.

    `repetitions` are more files of the same images, averaged into it; `axes` are names with commas.
    """
    given = None if mask is None else read_mask(mask)
    named = None if axes is None else parse_axes(axes)
    scans = [
        read_scan(file, mask=given, select=select, fftshift=fftshift, layout=layout, axes=named)
        for file in (path, *repetitions)
    ]
    scan = averaged(scans) if repetitions else scans[0]
    if calibration is not None:
        scan = read_calibration(calibration, scan, fftshift=fftshift, layout=layout, axes=named)
    if maps is None:
        return scan
    coil_maps = read_scan(maps).coil_maps
    if coil_maps is None:
        raise ScanError("no-maps", f"{maps.name} holds no dataset 'coil_maps'")
    return replace(scan, coil_maps=coil_maps)


def reconstruct_file(
    scan: Scan,
    result: Path,
    settings: Settings,
    model: str,
    device: torch.device,
    slices: Sequence[int],
    watch: Callable[[Event], None] | None = None,
    *,
    calibrated: bool = False,
    resume: bool = False,
    delivery: Delivery = PLAIN,
) -> tuple[list[SlicePosterior], ConformalFactor | None]:
    """Reconstruct and write the result file; returns its posteriors, and the factor in them.

    `calibrated` multiplies intervals and standard deviations by the model's conformal factor; it is
    refused (ModelError) before the work where the model has none for this. Of several slices each
    is kept beside the result when it is done; `resume` goes on from those of a run that was
    interrupted, and refuses (ScanError) what another scan or other settings have left.
    """
    entry = factor_for(model, settings, scan) if calibrated else None
    prior = load_prior(model, device)
    about = provenance(scan, settings, model, prior, device)
    kept = FinishedSlices(result, about | {"choices": choices_digest(scan, settings)})
    # The slices of a volume are done together: what is kept of it are its chains.
    found = kept.read(slices) if resume and not settings.volume else {}
    left = [index for index in slices if index not in found]
    watch = watch or (lambda _: None)
    for posterior in found.values():
        watch(posterior)
    typical = typical_of(model)
    if settings.volume and not resume:
        kept.remove()
    chains = kept.chains() if settings.volume else None
    for event in reconstruct(scan, prior, settings, left, device, typical, chains) if left else ():
        watch(event)
        if isinstance(event, SlicePosterior):
            found[event.index] = event
            if len(slices) > 1 and not settings.volume:
                kept.write(event)
    posteriors = [found[index] for index in slices]
    write_reconstruction(result, posteriors, scan, settings, prior, model, device, entry, delivery)
    kept.remove()
    return widen_all(posteriors, entry), entry


def write_reconstruction(
    result: Path,
    posteriors: Sequence[SlicePosterior],
    scan: Scan,
    settings: Settings,
    prior: NetworkPrior,
    model: str,
    device: torch.device,
    entry: ConformalFactor | None = None,
    delivery: Delivery = PLAIN,
) -> None:
    """Write the result file of a finished reconstruction, with all that made it.

    With an `entry`, intervals and standard deviations are multiplied by its factor, and the plain
    ones lie beside them. `delivery` says what other programs get of slices that are not trusted.
    """
    kept = ("acquisition", IMAGE_PLANES)
    about = provenance(scan, settings, model, prior, device)
    about |= {name: value for name, value in scan.attributes.items() if name in kept}
    write_result(
        result,
        widen_all(posteriors, entry),
        about | attributes_of(entry),
        header=scan.header,
        recon_shape=scan.geometry.recon_shape,
        mask=scan.sampled,
        uncalibrated=None if entry is None else posteriors,
        delivery=delivery,
    )


def provenance(
    scan: Scan, settings: Settings, model: str, prior: NetworkPrior, device: torch.device
) -> dict[str, str | int | float]:
    """What made a result: scan, model, settings and versions."""
    return {
        "input_sha256": scan.sha256,
        "model_id": model,
        "model_sha256": read_config(model).weights_sha256,
        "software_version": version("mri-posterior"),
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "device": str(device),
        "compute_dtype": str(prior.compute_dtype).removeprefix("torch."),
        "seed": settings.seed,
        "samples": settings.resolved.chains,
        "preset": settings.preset,
        "sampler": f"localized annealed Langevin, {settings.path.name} path",
        "coarse": str(settings.coarse),
        "steps": settings.resolved.evaluations,
        "acceleration": scan.acceleration,
        "compress_above": settings.calibration.compress_above,
        "slice_coherence": settings.slice_coherence,
        "volume": int(settings.volume),
        "units": UNITS,
    }


def evaluate_files(
    result: Path, full: Path, combination: Combination = Combination.ROOT_SUM_OF_SQUARES
) -> tuple[Evaluation, list[SlicePosterior], Reference, str | None]:
    """Scores of a result against the fully sampled scan, inside the matrix that its header keeps.

    The last is what the result says of a conformal factor in it.
    """
    posteriors, attributes = read_result(result)
    mask = read_result_mask(result)
    settings = replace(
        Settings().calibration, compress_above=int(attributes.get("compress_above", 12))
    )
    scan = read_scan(full)
    if scan.mask.shape != mask.shape:
        raise ScanError(
            "reference-shape",
            f"the result is of a {mask.shape} scan, the reference of a {scan.mask.shape} one",
        )
    if not scan.mask[mask].all() or np.count_nonzero(scan.mask) <= np.count_nonzero(mask):
        raise ScanError(
            "reference-undersampled", "the reference must hold more samples than the result used"
        )
    reference = reference_of(scan, mask, combination, settings)
    scores = evaluate(posteriors, reference, scan.geometry.recon_shape)
    return scores, posteriors, reference, sentence_of(attributes)
