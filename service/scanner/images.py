"""The images of a session: those of a finished job, or a quick look at its raw data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np

from recon.io.files import read_result, read_result_header, read_scan
from recon.planes import ATTRIBUTE, ImageStack
from recon.quick_look import zero_filled
from service.exports.images import ResultImages, images_of
from service.exports.mrd import mrd_images
from service.jobs.job import Job


def finished(result: Path, job: Job, *, std: bool) -> tuple[list[ismrmrd.Image], list[str]]:
    """Mean (series 1) and, if wanted, standard deviation (series 2); and the result's warnings.

    Who was scanned is the scanner's to know: it attaches its own header to the images. Raises
    ScanError.
    """
    posteriors, attributes = read_result(result)
    attributes |= {
        "job_id": job.id,
        "data_consistency": float(np.mean([p.chi2_per_coil.mean() for p in posteriors])),
    }
    images = images_of(posteriors, attributes, read_result_header(result), identified=False)
    warnings = sorted({text for posterior in posteriors for text in posterior.warnings})
    made = mrd_images(images)
    return made if std else made[: len(posteriors)], warnings


def preview(scan: Path, select: str | None) -> list[ismrmrd.Image]:
    """Zero-filled images (series 3), marked as such; of a choice of images. Raises ScanError."""
    chosen = None if select is None else dict(_counter(text) for text in select.split(","))
    read = read_scan(scan, select=chosen)
    stack = ImageStack.from_text(str(read.attributes[ATTRIBUTE]))
    picture = stack.crop(zero_filled(read))
    look = ResultImages(
        mean=picture,
        std=np.zeros_like(picture),
        coarse=picture,
        stack=replace(stack, planes=stack.planes[: len(picture)]),
        attributes={"acceleration": read.acceleration},
        header=None,
        identified=False,
        located=True,
    )
    return mrd_images(look, ("preview",))


def _counter(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    return name, int(value)
