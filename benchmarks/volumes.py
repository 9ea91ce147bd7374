"""A scan encoded in three dimensions: sampled as one volume, slice by slice, and by L1-wavelet.

    python -m benchmarks volumes
    python -m benchmarks.volumes SIDE

Heads are synthetic (`models.synthetic_heads`, drawn from label volumes that no shipped prior was
trained on), SIDE voxels along each axis, received by four coils whose sensitivities vary in all
directions; two phase encodings with a Poisson-disc mask. Slices are perpendicular to the readout;
`slices` shares no noise between them (`slice_coherence` 0), `stack` does. L1-wavelet is sigpy's, in
three dimensions, with the best of four weights chosen on the truth. Without the folder of data
there is nothing to measure.
"""

from __future__ import annotations

import lzma
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from recon.phantom import coil_mixing
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.regions import Region
from recon.scan import Geometry, Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.runs import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[1]
LABELS = ROOT.parent / "shared" / "data" / "labels"
HEADS = ("head_19", "head_20")
SIDE, COILS, EXTENT_MM = 64, 4, 210.0
ACCELERATION, CENTRE, NOISE = 6.0, 0.25, 0.02
WEIGHTS = (0.001, 0.003, 0.01, 0.03)
WAYS = {
    "slices": Settings("fast", samples=8, self_check=False, slice_coherence=0),
    "stack": Settings("fast", samples=8, self_check=False),
    "volume": Settings("fast", samples=8, self_check=False, volume=True),
}
EDGE = 6
"""Sides of the cubes whose means are asked for, in voxels."""
Volume = NDArray[np.complex64]


@dataclass(frozen=True)
class Measured:
    """One head, reconstructed one way."""

    head: str
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


def received(image: Volume, seed: int) -> tuple[Scan, NDArray[np.float64]]:
    """The full scan of a volume (readout, rows, columns), and what its coils see of a voxel."""
    import sigpy.mri  # lazy: a second, for one step

    side = len(image)
    birdcage = sigpy.mri.birdcage_maps((COILS, side, side, side), nzz=2)
    maps = np.tensordot(coil_mixing(COILS), birdcage, axes=1)
    weighted = np.moveaxis(maps * image, 0, 1)
    kspace = sigpy.fft(weighted, axes=(-2, -1))
    random = np.random.default_rng(seed)
    white = random.standard_normal((2, *kspace.shape))
    noise = np.einsum("cd,sdrk->scrk", coil_mixing(COILS), white[0] + 1j * white[1])
    alone = random.standard_normal((2, COILS, 20_000))
    voxel = EXTENT_MM / side
    scan = Scan(
        (kspace + NOISE * noise).astype(np.complex64),
        np.ones((side, side), np.bool_),
        noise_samples=(NOISE * coil_mixing(COILS) @ (alone[0] + 1j * alone[1])).astype(
            np.complex64
        ),
        geometry=Geometry((EXTENT_MM, EXTENT_MM, voxel), (side, side)),
    )
    return scan, np.sqrt((np.abs(maps) ** 2).sum(axis=0))


def head(name: str, side: int) -> Volume:
    """A synthetic head with a smooth phase, readout (feet to head) first."""
    with lzma.open(LABELS / f"{name}.npy.xz") as file:
        heads = SyntheticHeads([np.load(file, allow_pickle=False)])
    seed = int(name[-2:])
    magnitude = heads.volume(0, side, EXTENT_MM / side, np.random.default_rng(seed))
    phase = gaussian_filter(np.random.default_rng(seed).standard_normal((side,) * 3), side / 6)
    phase *= 1.5 / max(float(np.abs(phase).max()), 1e-9)
    return np.moveaxis(magnitude * np.exp(1j * phase), 2, 0).astype(np.complex64)


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


def measured(name: str, way: str, scan: Scan, truth: NDArray[np.float64]) -> Measured:
    """Reconstruct and judge; `truth` is the magnitude as all coils see it."""
    started = process_time()
    events = reconstruct(scan, load_prior(DEFAULT_MODEL), WAYS[way])
    found = sorted((e for e in events if isinstance(e, SlicePosterior)), key=lambda e: e.index)
    seconds = process_time() - started
    mean = np.abs(np.stack([one.mean for one in found])).astype(float)
    samples = np.abs(np.stack([one.samples for one in found], axis=1)).astype(float)
    low, high = (np.stack([one.quantiles[k] for one in found]) for k in (0, 3))
    inside = np.stack([one.object_mask for one in found])
    flickers = [flicker(truth, sample, inside) for sample in samples]
    return Measured(
        name,
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


def run(side: int = SIDE) -> list[Measured]:
    """All heads, all ways."""
    torch.set_num_threads(1)
    made = []
    for name in HEADS:
        image = head(name, side)
        full, seen = received(image, int(name[-2:]))
        mask = undersampling_mask((side, side), "poisson", ACCELERATION, CENTRE, 1)
        scan, truth = undersample(full, mask), seen * np.abs(image)
        for way in WAYS:
            made.append(measured(name, way, scan, truth))
            print(made[-1], flush=True)
        made.append(_best_wavelet(name, scan, image, truth))
        print(made[-1], flush=True)
    return made


def _best_wavelet(name: str, scan: Scan, image: Volume, truth: NDArray[np.float64]) -> Measured:
    import sigpy.mri  # lazy: a second, for one step

    side = len(image)
    birdcage = sigpy.mri.birdcage_maps((COILS, side, side, side), nzz=2)
    maps = np.tensordot(coil_mixing(COILS), birdcage, axes=1).astype(np.complex64)
    seen = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    started = process_time()
    images = [seen * wavelet(scan, maps, weight) for weight in WEIGHTS]
    seconds = (process_time() - started) / len(WEIGHTS)
    best = max(images, key=lambda found: volume_scores(truth, found).psnr)
    psnr, inside = volume_scores(truth, best).psnr, truth > 0.1
    return Measured(
        name, "L1-wavelet", psnr, math.nan, _ssim(truth, best),
        (flicker(truth, best, inside), math.nan), math.nan, math.nan, seconds,
    )  # fmt: skip


def outcome(made: Sequence[Measured]) -> Outcome:
    """Volume against slices, and all figures."""
    of = {(one.head, one.way): one for one in made}
    names = sorted({one.head for one in made})
    gain = float(np.mean([of[n, "volume"].psnr - of[n, "slices"].psnr for n in names]))
    cost = float(np.mean([of[n, "volume"].seconds / of[n, "slices"].seconds for n in names]))
    steady = float(np.mean([of[n, "volume"].flicker[1] for n in names]))
    held = float(np.mean([of[n, "volume"].regions_held for n in names]))
    checks = (
        Check("dB of the mean, volume over slices", gain, 1.7, 1.0),
        Check("time of the volume over that of its slices", cost, 0.9, 0.2),
        Check("flicker of the volume's samples", steady, 1.0, 0.1),
        Check("90 % intervals of cubes hold, volume", held, 0.9, 0.03),
    )
    rows: list[dict[str, float | int | str | bool | None]] = [
        {
            "head": one.head,
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
    return Outcome(
        checks, tuple(rows), "seconds of processor; truth: magnitude as all coils see it"
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def draw(made: Sequence[Measured]) -> Figure:
    """PSNR and flicker, way by way."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    ways = list(dict.fromkeys(one.way for one in made))
    for at, way in enumerate(ways):
        found = [one for one in made if one.way == way]
        steady = [next(v for v in one.flicker[::-1] if math.isfinite(v)) for one in found]
        axes[0].plot([at] * len(found), [one.psnr for one in found], "o", color="tab:blue")
        axes[1].plot([at] * len(found), steady, "o", color="tab:blue")
    axes[0].set_title("PSNR of the mean (dB)")
    axes[1].set_title("flicker of a sample, or of the one image")
    for panel in axes:
        panel.set_xticks(range(len(ways)), ways)
    axes[1].axhline(1, color="k", lw=0.9, ls="--")
    return figure


def main(arguments: Sequence[str] = ()) -> bool:
    """Run, write and say whether all was met."""
    side = int(arguments[0]) if arguments else SIDE
    return publish("volumes", lambda: run(side), outcome, draw)


if __name__ == "__main__":
    main(sys.argv[1:])
