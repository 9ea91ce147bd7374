"""How near a posterior comes to the fully sampled image, and whether its uncertainty is true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import fastmri.evaluate
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recon.errors import ScanError
from recon.posterior import QUANTILE_LEVELS, SlicePosterior
from recon.reference import Reference
from recon.scan import centre_crop

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
    predicted: ImageScores
    """Of what the mean says of the *noisy* reference (`with_noise_energy`)."""
    coverage_50: float
    """Share of object pixels whose reference magnitude lies in the 50 % interval."""
    coverage_90: float
    predicted_50: float
    """The same for intervals of the *noisy* reference: of the image and the reference's own noise
    (`Reference.noise` and `floor`)."""
    predicted_90: float
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


def flicker(
    reference: Image, image: Image, inside: NDArray[np.bool_] | None = None, axis: int = 0
) -> float:
    """Energy of the differences between neighbouring slices of a volume, over the reference's.

    1 where slices differ as much as the truth's do, above it where a volume flickers when one
    scrolls through it, below where it is too smooth. Volumes are compared by their magnitude, along
    `axis`, where both neighbours lie `inside`. Raises ValueError where there are no two slices, or
    where the reference's do not differ.
    """
    if reference.shape[axis] < 2:
        raise ValueError("flicker needs two slices or more")
    true, found = (np.square(np.diff(np.abs(volume), axis=axis)) for volume in (reference, image))
    if inside is not None:
        count = inside.shape[axis] - 1
        both = inside.take(range(count), axis) & inside.take(range(1, count + 1), axis)
        true, found = true[both], found[both]
    energy = float(true.sum(dtype=np.float64))
    if energy == 0:
        raise ValueError("the slices of the reference do not differ")
    return float(found.sum(dtype=np.float64)) / energy


def evaluate(
    posteriors: Sequence[SlicePosterior],
    reference: Reference,
    shape: tuple[int, int] | None = None,
) -> Evaluation:
    """Compare posteriors with the fully sampled `reference`.

    The reference holds all slices of the scan, in the units of the posteriors: each posterior is
    compared with the slice of its `index`. The volume is made of the slices that were
    reconstructed. `shape` (rows, columns) cuts the middle out of both first, as fastMRI does with
    oversampled rows. Raises ScanError where results and reference do not fit each other.
    """
    if not posteriors:
        raise ScanError("nothing-to-evaluate", "the result holds no slice to evaluate")
    references = reference.images
    for posterior in posteriors:
        fits = references.ndim == 3 and references.shape[1:] == posterior.mean.shape
        if not fits or not 0 <= posterior.index < len(references):
            raise ScanError(
                "reference-shape",
                f"the reference has shape {references.shape}; it must be (slices, rows, columns) "
                f"and hold slice {posterior.index} with {posterior.mean.shape} pixels",
            )
    chosen = [p.index for p in posteriors]
    levels = np.array([p.noise_std for p in posteriors])[:, None, None]
    noise = centre_crop(levels * reference.noise[chosen], shape)
    floor = centre_crop(levels**2 * reference.floor[chosen], shape)
    true = centre_crop(np.abs(references[chosen]), shape)
    posteriors = [_cropped(posterior, shape) for posterior in posteriors]
    samples = _sample_scores(posteriors, true)
    mean = np.stack([p.mean for p in posteriors])
    coarse = np.stack([p.coarse for p in posteriors])
    told = with_noise_energy(mean, noise, floor)
    per_slice = zip(
        *(slice_scores(true, one) for one in (mean, coarse, told)), samples[1], strict=True
    )
    volume = (*(volume_scores(true, one) for one in (mean, coarse, told)), samples[0])
    return Evaluation(
        volume=_judge(posteriors, true, noise, floor, *volume),
        slices=tuple(
            _judge([posterior], true[k][None], noise[k][None], floor[k][None], *scores)
            for k, (posterior, scores) in enumerate(zip(posteriors, per_slice, strict=True))
        ),
        indices=tuple(chosen),
    )


def _cropped(posterior: SlicePosterior, shape: tuple[int, int] | None) -> SlicePosterior:
    """The middle of what is compared."""
    return replace(
        posterior,
        mean=centre_crop(posterior.mean, shape),
        samples=centre_crop(posterior.samples, shape),
        coarse=centre_crop(posterior.coarse, shape),
        quantiles=centre_crop(posterior.quantiles, shape),
        rhat=centre_crop(posterior.rhat, shape),
        object_mask=centre_crop(posterior.object_mask, shape),
    )


def _judge(
    posteriors: Sequence[SlicePosterior],
    true: NDArray[Any],
    noise: NDArray[Any],
    floor: NDArray[Any],
    mean: ImageScores,
    coarse: ImageScores,
    predicted: ImageScores,
    sample: ImageScores,
) -> Judgement:
    """Join the scores with what is counted over the object pixels of these slices."""
    inside = np.stack([p.object_mask for p in posteriors])
    ends = np.stack([p.quantiles for p in posteriors], axis=1)
    coverage_90, coverage_50 = _coverage(ends, true, inside)
    predicted_90, predicted_50 = _coverage(_with_noise(ends, noise, floor), true, inside)
    rhat = np.stack([p.rhat for p in posteriors])[inside]
    return Judgement(
        mean=mean,
        coarse=coarse,
        sample=sample,
        predicted=predicted,
        coverage_50=coverage_50,
        coverage_90=coverage_90,
        predicted_50=predicted_50,
        predicted_90=predicted_90,
        # A pixel whose R-hat is undefined has not been shown to agree, unless none has been.
        rhat_share=_share(rhat < RHAT_LIMIT) if np.isfinite(rhat).any() else math.nan,
        chi2=float(np.mean([p.chi2_per_coil.mean() for p in posteriors])),
        object_pixels=int(np.count_nonzero(inside)),
    )


def _coverage(
    ends: NDArray[Any], true: NDArray[Any], inside: NDArray[np.bool_]
) -> tuple[float, float]:
    """Shares inside the outer and the inner interval of (4, slices, rows, columns)."""
    return (
        _share(((ends[0] <= true) & (true <= ends[3]))[inside]),
        _share(((ends[1] <= true) & (true <= ends[2]))[inside]),
    )


def with_noise_energy(
    image: Image, noise: NDArray[np.floating[Any]], floor: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Magnitudes of an image without noise, and the energy that a reference's noise adds to them.

    In air a root of the sum of squares of noisy coils is far from zero, and no estimate of the
    image draws that: comparing with it as it is would favour whoever keeps the measured noise.
    `noise` and `floor` as in `Reference`, times the noise level (squared for `floor`).
    """
    squares = np.square(np.abs(image), dtype=np.float64)
    return np.asarray(np.sqrt(squares + np.square(noise, dtype=np.float64) + floor))


def _with_noise(
    ends: NDArray[Any], noise: NDArray[np.float64], floor: NDArray[np.float64]
) -> NDArray[Any]:
    """Intervals (4, slices, rows, columns) of magnitudes that have noise of their own.

    Widened by independent noise of that std, as of Gaussians, and raised by the energy `floor`.
    """
    middle = (ends[1] + ends[2]) / 2
    scores = stats.norm.ppf(QUANTILE_LEVELS)[:, None, None, None]
    reach = np.hypot(ends - middle, scores * noise)
    noisy = np.maximum(middle + np.sign(scores) * reach, 0)
    return np.asarray(np.sqrt(noisy**2 + floor))


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
