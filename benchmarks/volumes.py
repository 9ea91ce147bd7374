"""A scan encoded in three dimensions: sampled as one volume, slice by slice, and by L1-wavelet.

    python -m benchmarks volumes
    python -m benchmarks.volumes [SIDE SLICES SAMPLES HEAD…] [--coils 4] [--mask "Poisson 6" …]
                                 [--name volumes] [--no-picture]

Heads are synthetic (`models.synthetic_heads`, drawn from label volumes that no shipped prior was
trained on), SIDE voxels along both phase encodings of 210 mm; the middle SLICES along the readout
are reconstructed; coils whose sensitivities vary in all directions. Samples lie on a
Poisson disc, or every second or third line along both encodings, shifted from one to the next
(CAIPIRINHA), round a centre that is sampled in full. `slices` shares no noise between slices
(`slice_coherence` 0), `stack` does. L1-wavelet is sigpy's, in three dimensions, with the true maps
and the best of four weights chosen on the truth. The picture is of the project's own phantom,
sampled in the same ways. Without the folder of data there is nothing to measure.
"""

from __future__ import annotations

import argparse
import lzma
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.record import Check, Outcome, publish
from models.loading import load_prior
from models.synthetic_heads import SyntheticHeads
from recon.evaluation import flicker, volume_scores
from recon.noise import NoiseStreams
from recon.phantom import coil_mixing, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.regions import Region
from recon.scan import Geometry, Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.volumes import AlternatingPlanes
from service.runs import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT.parent / "shared" / "data" / "labels"
HEADS = ("head_19",)
SIDE, SLICES, SAMPLES, COILS, EXTENT_MM = 96, 32, 4, 4, 210.0
CENTRE, NOISE = 16, 0.02
"""Of k-space sampled in full along either encoding, and the receivers' noise."""
WEIGHTS = (0.001, 0.003, 0.01, 0.03)
WAYS = {
    "slices": Settings("fast", self_check=False, slice_coherence=0),
    "stack": Settings("fast", self_check=False),
    "volume": Settings("fast", self_check=False, volume=True),
}
SIGMAS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)
EDGE = 6
"""Sides of the cubes whose means are asked for, in voxels."""
Volume = NDArray[np.complex64]


@dataclass(frozen=True)
class Measured:
    """One head, reconstructed one way."""

    head: str
    mask: str
    acceleration: float
    way: str
    psnr: float
    sample_psnr: float
    ssim: tuple[float, float, float]
    """In planes across the readout, and of the two other directions."""
    flicker: tuple[float, float]
    """Of mean and samples, along the stack of slices."""
    voxels_held: float
    regions_held: float
    """Share of true values inside 90 % intervals."""
    seconds: float
    """Of processor."""


@dataclass(frozen=True)
class Denoised:
    """What the prior makes of one noisy head, in dB."""

    head: str
    sigma: float
    slices: float
    """In planes across the readout."""
    directions: float
    """The mean of what it makes of the planes of all three directions."""


@dataclass(frozen=True)
class Found:
    """Everything, and what is drawn of it."""

    made: tuple[Measured, ...]
    denoised: tuple[Denoised, ...]
    shown: dict[str, NDArray[np.float64]]
    """The phantom by what was done with it, (slices, rows, columns)."""


def poisson(side: int) -> NDArray[np.bool_]:
    """Six times fewer samples, on a Poisson disc."""
    return undersampling_mask((side, side), "poisson", 6.0, CENTRE / side, 1)


def caipirinha(side: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Every `rows`-th row and `columns`-th column, these one further from row to row."""
    mask = np.zeros((side, side), np.bool_)
    for number, row in enumerate(range(0, side, rows)):
        mask[row, number % columns :: columns] = True
    middle = slice(side // 2 - CENTRE // 2, side // 2 + CENTRE // 2)
    mask[middle, middle] = True
    return mask


MASKS: dict[str, Callable[[int], NDArray[np.bool_]]] = {
    "Poisson 6": poisson,
    "CAIPIRINHA 2 x 2": lambda side: caipirinha(side, 2, 2),
    "CAIPIRINHA 3 x 2": lambda side: caipirinha(side, 3, 2),
}


def cubes(side: int) -> Geometry:
    """Of a field of view that holds a head."""
    return Geometry((EXTENT_MM, EXTENT_MM, EXTENT_MM / side), (side, side))


def birdcage(shape: tuple[int, ...], coils: int) -> Volume:
    """Maps (coils, slices, rows, columns) that vary in all directions, behind their coupling."""
    import sigpy.mri  # lazy: a second, for one step

    alone = sigpy.mri.birdcage_maps((coils, *shape), nzz=coils // 2)  # two rings
    return np.tensordot(coil_mixing(coils), alone, axes=1).astype(np.complex64)


def received(image: Volume, seed: int, coils: int) -> tuple[Scan, NDArray[np.float64]]:
    """The full scan of a volume (readout, rows, columns), and what its coils see of a voxel."""
    import sigpy  # lazy: a second, for one step

    maps, side = birdcage(image.shape, coils), image.shape[1]
    weighted = np.moveaxis(maps * image, 0, 1)
    kspace = sigpy.fft(weighted, axes=(-2, -1))
    random = np.random.default_rng(seed)
    white = random.standard_normal((2, *kspace.shape))
    noise = np.einsum("cd,sdrk->scrk", coil_mixing(coils), white[0] + 1j * white[1])
    alone = random.standard_normal((2, coils, 20_000))
    scan = Scan(
        (kspace + NOISE * noise).astype(np.complex64),
        np.ones((side, side), np.bool_),
        noise_samples=(NOISE * coil_mixing(coils) @ (alone[0] + 1j * alone[1])).astype(
            np.complex64
        ),
        geometry=cubes(side),
    )
    return scan, np.sqrt((np.abs(maps) ** 2).sum(axis=0))


def head(name: str, side: int, slices: int) -> Volume:
    """The middle of a synthetic head with a smooth phase, readout (feet to head) first."""
    with lzma.open(LABELS / f"{name}.npy.xz") as file:
        heads = SyntheticHeads([np.load(file, allow_pickle=False)])
    seed = int(name[-2:])
    magnitude = heads.volume(0, side, EXTENT_MM / side, np.random.default_rng(seed))
    phase = gaussian_filter(np.random.default_rng(seed).standard_normal((side,) * 3), side / 6)
    phase *= 1.5 / max(float(np.abs(phase).max()), 1e-9)
    whole = np.moveaxis(magnitude * np.exp(1j * phase), 2, 0).astype(np.complex64)
    return whole[(side - slices) // 2 :][:slices]


def wavelet(scan: Scan, maps: NDArray[np.complex64], weight: float) -> NDArray[np.float64]:
    """Sigpy's L1-wavelet reconstruction of the whole volume, magnitude."""
    import sigpy  # lazy: a second, for one step
    import sigpy.mri.app as mri_app  # lazy: a second, for one step

    kspace = np.moveaxis(sigpy.fft(scan.kspace, axes=(0,)), 1, 0)
    app = mri_app.L1WaveletRecon(
        kspace.astype(np.complex64), maps, weight,
        weights=np.broadcast_to(scan.mask, kspace.shape[1:]).astype(np.float32),
        max_iter=50, show_pbar=False,
    )  # fmt: skip
    return np.abs(app.run())


def sampled(scan: Scan, way: str, samples: int) -> list[SlicePosterior]:
    """The posteriors of all slices."""
    events = reconstruct(scan, load_prior(DEFAULT_MODEL), replace(WAYS[way], samples=samples))
    return sorted((e for e in events if isinstance(e, SlicePosterior)), key=lambda e: e.index)


def measured(
    about: tuple[str, str, float],
    way: str,
    scan: Scan,
    truth: NDArray[np.float64],
    count: int,
) -> Measured:
    """Reconstruct and judge; `truth` is the magnitude as all coils see it."""
    started = process_time()
    found = sampled(scan, way, count)
    seconds = process_time() - started
    mean = np.abs(np.stack([one.mean for one in found])).astype(float)
    samples = np.abs(np.stack([one.samples for one in found], axis=1)).astype(float)
    low, high = (np.stack([one.quantiles[k] for one in found]) for k in (0, 3))
    inside = np.stack([one.object_mask for one in found])
    flickers = [flicker(truth, sample, inside) for sample in samples]
    return Measured(
        *about,
        way,
        volume_scores(truth, mean).psnr,
        float(np.mean([volume_scores(truth, each).psnr for each in samples])),
        _ssim(truth, mean),
        (flicker(truth, mean, inside), float(np.mean(flickers))),
        float(((truth >= low) & (truth <= high))[inside].mean()),
        _regions_held(truth, samples, inside),
        seconds,
    )


def _ssim(truth: NDArray[np.float64], image: NDArray[np.float64]) -> tuple[float, float, float]:
    turned = [(np.moveaxis(truth, k, 0), np.moveaxis(image, k, 0)) for k in range(3)]
    first, second, third = (volume_scores(true, found).ssim for true, found in turned)
    return first, second, third


def _regions_held(
    truth: NDArray[np.float64], samples: NDArray[np.float64], inside: NDArray[np.bool_]
) -> float:
    """Share of the cubes that lie in the object whose true mean is in its 90 % interval."""
    held = []
    for corner in np.ndindex(*(side // EDGE for side in truth.shape)):
        cube = tuple(slice(at * EDGE, (at + 1) * EDGE) for at in corner)
        if inside[cube].mean() > 0.9:
            low, high = Region(samples[:, *cube].mean(axis=(1, 2, 3))).interval(0.9)
            held.append(low <= truth[cube].mean() <= high)
    return float(np.mean(held)) if held else math.nan


def run(
    side: int,
    slices: int,
    samples: int,
    heads: Sequence[str],
    coils: int,
    masks: Sequence[str],
    picture: bool,
) -> Found:
    """All heads and ways with these masks; and what the picture is of."""
    torch.set_num_threads(1)
    made, denoised = [], []
    for name in heads:
        image = head(name, side, slices)
        denoised += [directions(name, image, sigma) for sigma in SIGMAS]
        print(*denoised[-len(SIGMAS) :], sep="\n", flush=True)
        full, seen = received(image, int(name[-2:]), coils)
        truth = seen * np.abs(image)
        for pattern in masks:
            scan = undersample(full, MASKS[pattern](side))
            about = (name, pattern, scan.acceleration)
            for way in WAYS:
                if way == "stack" and pattern != next(iter(MASKS)):
                    continue  # the law of each slice is that of `slices`
                made.append(measured(about, way, scan, truth, samples))
                print(made[-1], flush=True)
            made.append(_best_wavelet(about, scan, image.shape, truth))
            print(made[-1], flush=True)
    shown = pictured(side, slices, samples) if picture else {}
    return Found(tuple(made), tuple(denoised), shown)


def directions(name: str, image: Volume, sigma: float) -> Denoised:
    """A head with noise `sigma` (per component, its 99th percentile is 1), without a scan."""
    clean = torch.from_numpy(image / np.percentile(np.abs(image), 99)).to(torch.complex64)
    noise = NoiseStreams.keyed(0, f"directions-{sigma}", range(1)).image(clean.shape, clean.device)
    prior, noisy = load_prior(DEFAULT_MODEL), clean + sigma * noise
    alone, three_ways = AlternatingPlanes(prior, (0,)), AlternatingPlanes(prior, (0, 1, 2))
    found = torch.stack([three_ways.denoise(noisy, sigma) for _ in range(3)]).mean(dim=0)
    errors = (alone.denoise(noisy, sigma) - clean, found - clean)
    one, three = (-10 * math.log10(float(each.abs().square().mean())) for each in errors)
    return Denoised(name, sigma, one, three)


def pictured(side: int, slices: int, samples: int) -> dict[str, NDArray[np.float64]]:
    """The project's phantom in three dimensions: truth, and one sample and the mean each way."""
    full, image = simulate(slices, COILS, side, side, slice_distance=2 / side)
    scan = undersample(replace(full, geometry=cubes(side)), poisson(side))
    shown = {"truth": np.abs(image).astype(float)}
    for way in ("slices", "volume"):
        found = sampled(scan, way, samples)
        shown[f"{way}: mean"] = np.abs(np.stack([one.mean for one in found]))
        shown[f"{way}: a sample"] = np.abs(np.stack([one.samples[0] for one in found]))
    return shown


def _best_wavelet(
    about: tuple[str, str, float],
    scan: Scan,
    shape: tuple[int, ...],
    truth: NDArray[np.float64],
) -> Measured:
    maps = birdcage(shape, scan.kspace.shape[1])
    seen = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    started = process_time()
    images = [seen * wavelet(scan, maps, weight) for weight in WEIGHTS]
    seconds = (process_time() - started) / len(WEIGHTS)
    best = max(images, key=lambda found: volume_scores(truth, found).psnr)
    psnr, inside = volume_scores(truth, best).psnr, truth > 0.1
    return Measured(
        *about, "L1-wavelet", psnr, math.nan, _ssim(truth, best),
        (flicker(truth, best, inside), math.nan), math.nan, math.nan, seconds,
    )  # fmt: skip


def outcome(found: Found) -> Outcome:
    """Volume against slices, and all figures."""
    made = found.made
    of = {(one.head, one.mask, one.way): one for one in made}
    pairs = [
        (of[head, mask, "volume"], of[head, mask, "slices"])
        for head, mask, way in of
        if way == "volume"
    ]
    first = pairs[0][0].mask
    gain = float(np.mean([v.psnr - s.psnr for v, s in pairs if v.mask == first]))
    cost = float(np.mean([v.seconds / s.seconds for v, s in pairs]))
    steady = float(np.mean([v.flicker[1] for v, _ in pairs]))
    held = float(np.mean([v.regions_held for v, _ in pairs]))
    checks = (
        Check(f"dB of the mean, volume over slices, {first}", gain, 1.7, 1.0),
        Check("time of the volume over that of its slices", cost, 0.9, 0.2),
        Check("flicker of the volume's samples", steady, 1.0, 0.1),
        Check("90 % intervals of cubes hold, volume", held, 0.9, 0.03),
    )
    rows: list[dict[str, float | int | str | bool | None]] = [
        {
            "head": one.head,
            "mask": one.mask,
            "acceleration": one.acceleration,
            "way": one.way,
            "PSNR mean": one.psnr,
            "PSNR sample": _known(one.sample_psnr),
            "SSIM slices": one.ssim[0],
            "SSIM rows": one.ssim[1],
            "SSIM columns": one.ssim[2],
            "flicker mean": one.flicker[0],
            "flicker samples": _known(one.flicker[1]),
            "90 % of voxels": _known(one.voxels_held),
            "90 % of cubes": _known(one.regions_held),
            "seconds": one.seconds,
        }
        for one in made
    ]
    rows += [
        {"head": one.head, "way": f"denoised at {one.sigma:g}: {way}", "PSNR mean": psnr}
        for one in found.denoised
        for way, psnr in (("slices", one.slices), ("three directions", one.directions))
    ]
    return Outcome(
        checks, tuple(rows), "seconds of processor; truth: magnitude as all coils see it"
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def draw(found: Found) -> Figure | None:
    """Three planes of the phantom, way by way; nothing where it was left out."""
    if not found.shown:
        return None
    figure, axes = plt.subplots(3, len(found.shown), figsize=(11, 5.6), layout="constrained")
    high = float(np.percentile(found.shown["truth"], 99.7))
    for column, (title, volume) in enumerate(found.shown.items()):
        slices, rows, columns = (size // 2 for size in volume.shape)
        planes = (volume[slices], volume[::-1, rows], volume[::-1, :, columns])
        for panel, plane in zip(axes[:, column], planes, strict=True):
            panel.imshow(plane, cmap="gray", vmin=0, vmax=high)
            panel.axis("off")
        axes[0, column].set_title(title)
    return figure


def main(arguments: Sequence[str] = ()) -> bool:
    """Run, write and say whether all was met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", type=int, nargs="?", default=SIDE)
    parser.add_argument("slices", type=int, nargs="?", default=SLICES)
    parser.add_argument("samples", type=int, nargs="?", default=SAMPLES)
    parser.add_argument("heads", nargs="*", default=HEADS)
    parser.add_argument("--coils", type=int, default=COILS, help="an even number")
    parser.add_argument("--mask", action="append", choices=MASKS, help="several; else all")
    parser.add_argument("--name", default="volumes", help="of the files of results")
    parser.add_argument("--no-picture", action="store_true", help="nor the phantom that it is of")
    chosen = parser.parse_args(list(arguments))
    masks = chosen.mask or tuple(MASKS)

    def measure() -> Found:
        return run(
            chosen.side,
            chosen.slices,
            chosen.samples,
            chosen.heads,
            chosen.coils,
            masks,
            not chosen.no_picture,
        )

    return publish(chosen.name, measure, outcome, draw)


if __name__ == "__main__":
    main(sys.argv[1:])
