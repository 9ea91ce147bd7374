"""How near a posterior comes to the fully sampled image, and whether its uncertainty is true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import fastmri.evaluate
import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.posterior import SlicePosterior

RHAT_LIMIT = 1.1
_SSIM_WINDOW = 7

Image = NDArray[np.complex64] | NDArray[np.float32] | NDArray[np.float64]
"""Complex images are compared by their magnitude."""


@dataclass(frozen=True)
class ImageScores:
    """Metrics of fastMRI (`fastmri.evaluate`), of magnitudes."""

    psnr: float
    """dB, against the largest magnitude of the reference volume."""
    ssim: float
    nmse: float


@dataclass(frozen=True)
class Judgement:
    """One slice, or one volume, against its reference. Shares and scores without a base are NaN."""

    mean: ImageScores
    coarse: ImageScores
    sample: ImageScores
    """Of single samples, averaged over the samples."""
    coverage_50: float
    """Share of object pixels whose reference magnitude lies in the 50 % interval."""
    coverage_90: float
    rhat_share: float
    """Share of object pixels with R-hat below `RHAT_LIMIT`; NaN with a single sample."""
    chi2: float
    """Mean over coils (and slices); 1 when right."""
    object_pixels: int


@dataclass(frozen=True)
class Evaluation:
    """Judgements of all slices, and of the volume they form."""

    volume: Judgement
    slices: tuple[Judgement, ...]
    indices: tuple[int, ...]
    """Number of each slice in its scan."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for what is not finite."""
        return {
            "volume": _plain(asdict(self.volume)),
            "slices": [
                {"slice": index, **_plain(asdict(judgement))}
                for index, judgement in zip(self.indices, self.slices, strict=True)
            ],
        }


def volume_scores(reference: Image, image: Image) -> ImageScores:
    """Scores of a volume (slices, rows, columns), as fastMRI's leaderboard defines them.

    PSNR and NMSE are of all pixels together, SSIM is the mean over slices. Raises ScanError where
    shapes differ or a slice is smaller than the 7 x 7 window of SSIM.
    """
    return _scores(*_magnitudes(reference, image), None)


def slice_scores(reference: Image, image: Image) -> tuple[ImageScores, ...]:
    """Scores of each slice of a volume, with the maximum of the whole reference as data range."""
    true, found = _magnitudes(reference, image)
    peak = float(true.max())
    return tuple(_scores(true[k : k + 1], found[k : k + 1], peak) for k in range(len(true)))


def evaluate(posteriors: Sequence[SlicePosterior], reference: Image) -> Evaluation:
    """Compare posteriors with the fully sampled `reference` (slices, rows, columns).

    The reference holds all slices of the scan, in the units of the posteriors: each posterior is
    compared with the slice of its `index`. The volume is made of the slices that were
    reconstructed. Raises ScanError where the two do not fit each other.
    """
    if not posteriors:
        raise ScanError("nothing-to-evaluate", "the result holds no slice to evaluate")
    for posterior in posteriors:
        fits = reference.ndim == 3 and reference.shape[1:] == posterior.mean.shape
        if not fits or not 0 <= posterior.index < len(reference):
            raise ScanError(
                "reference-shape",
                f"the reference has shape {reference.shape}; it must be (slices, rows, columns) "
                f"and hold slice {posterior.index} with {posterior.mean.shape} pixels",
            )
    true = np.abs(reference[[p.index for p in posteriors]])
    samples = _sample_scores(posteriors, true)
    mean = np.stack([p.mean for p in posteriors])
    coarse = np.stack([p.coarse for p in posteriors])
    per_slice = zip(slice_scores(true, mean), slice_scores(true, coarse), samples[1], strict=True)
    return Evaluation(
        volume=_judge(
            posteriors, true, volume_scores(true, mean), volume_scores(true, coarse), samples[0]
        ),
        slices=tuple(
            _judge(posteriors[k : k + 1], true[k : k + 1], *scores)
            for k, scores in enumerate(per_slice)
        ),
        indices=tuple(p.index for p in posteriors),
    )


def _judge(
    posteriors: Sequence[SlicePosterior],
    true: NDArray[Any],
    mean: ImageScores,
    coarse: ImageScores,
    sample: ImageScores,
) -> Judgement:
    """Join the scores with what is counted over the object pixels of these slices."""
    inside = np.stack([p.object_mask for p in posteriors])
    low_90, low_50, high_50, high_90 = np.stack([p.quantiles for p in posteriors], axis=1)
    rhat = np.stack([p.rhat for p in posteriors])[inside]
    return Judgement(
        mean=mean,
        coarse=coarse,
        sample=sample,
        coverage_50=_share(((low_50 <= true) & (true <= high_50))[inside]),
        coverage_90=_share(((low_90 <= true) & (true <= high_90))[inside]),
        # A pixel whose R-hat is undefined has not been shown to agree, unless none has been.
        rhat_share=_share(rhat < RHAT_LIMIT) if np.isfinite(rhat).any() else math.nan,
        chi2=float(np.mean([p.chi2_per_coil.mean() for p in posteriors])),
        object_pixels=int(np.count_nonzero(inside)),
    )


def _sample_scores(
    posteriors: Sequence[SlicePosterior], true: NDArray[Any]
) -> tuple[ImageScores, tuple[ImageScores, ...]]:
    """Scores of single samples, averaged: of the volume, and of each slice."""
    # Chain k of every slice together is one draw of the volume.
    draws = min(len(p.samples) for p in posteriors)
    volumes = [np.stack([p.samples[k] for p in posteriors]) for k in range(draws)]
    by_draw = [slice_scores(true, volume) for volume in volumes]
    return (
        _average([volume_scores(true, volume) for volume in volumes]),
        tuple(_average([scores[k] for scores in by_draw]) for k in range(len(posteriors))),
    )


def _average(scores: Sequence[ImageScores]) -> ImageScores:
    if not scores:
        return ImageScores(math.nan, math.nan, math.nan)
    table = np.array([(s.psnr, s.ssim, s.nmse) for s in scores])
    return ImageScores(*(float(value) for value in table.mean(axis=0)))


def _scores(true: NDArray[Any], found: NDArray[Any], peak: float | None) -> ImageScores:
    # An image equal to its reference has infinite PSNR, an empty reference no NMSE.
    with np.errstate(divide="ignore", invalid="ignore"):
        return ImageScores(
            psnr=float(fastmri.evaluate.psnr(true, found, peak)),
            ssim=float(fastmri.evaluate.ssim(true, found, peak).item()),
            nmse=float(fastmri.evaluate.nmse(true, found)),
        )


def _magnitudes(reference: Image, image: Image) -> tuple[NDArray[Any], NDArray[Any]]:
    if reference.ndim != 3 or reference.shape != image.shape:
        raise ScanError(
            "reference-shape",
            "reference and image must both be (slices, rows, columns), "
            f"not {reference.shape} and {image.shape}",
        )
    if min(reference.shape[1:]) < _SSIM_WINDOW:
        raise ScanError("too-small", "SSIM needs slices of 7 x 7 pixels or more")
    # One type for both: skimage refuses a mixture.
    return np.abs(reference).astype(np.float64), np.abs(image).astype(np.float64)


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else math.nan


def _plain(value: Any) -> Any:  # noqa: ANN401 - any tree of dicts and numbers
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
