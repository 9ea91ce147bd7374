"""Denoisers on images that no prior was trained on: ours, the first one's, BM3D.

    python -m benchmarks.denoising [--model NAME ...] [--slices 6] [--keep-bm3d]

PSNR in dB of the magnitude (peak 1, the slice's 99th percentile) of D(x + sigma z). BM3D (PyPI
`bm3d`, to be installed by hand: mind its licence) knows sigma and is given three versions of the
same image: real and imaginary part one by one; the noisy magnitude; and the clean magnitude plus
real noise, which amounts to knowing the phase. The priors are given the complex image and, for the
last version, the clean magnitude with complex noise, whose real part is the image that BM3D is
given; of what they return the real part counts then.

`complex` is the PSNR of real and imaginary part, for both. That alone ranks denoisers rightly on
images that have noise of their own (complex_t2: 0.022 to 0.042 in either part): it costs everyone
the same, where a magnitude's costs most who leaves least of it in air. Writes
benchmarks/results/denoising.*
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import bm3d
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from models.loading import load_prior
from models.reduction import resized_complex
from models.training_data import ImageFile, SliceSet
from models.validate import SIGMAS as TAUGHT
from models.validate import add_noise, denoising_psnr, psnr
from recon.prior import Prior
from service.runs import DEFAULT_MODEL

SIGMAS = (0.005, 0.01, *TAUGHT)
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = ("open_ms", "complex_t2")
VERSIONS = ("real and imaginary", "noisy magnitude", "known phase")
_KNOWN_PHASE_SEED = 10_000
SIDES = (96, 128, 160, 192, 224, 256)


def bm3d_psnr(clean: Tensor, noisy: Tensor, sigma: float, seed: int) -> tuple[float, ...]:
    """Of (real and imaginary part, noisy magnitude, magnitude with real noise), and complex."""

    def filtered(image: Tensor) -> Tensor:
        return torch.from_numpy(bm3d.bm3d(image.double().numpy(), sigma)).float()

    truth = clean.abs()
    parts = torch.complex(filtered(noisy.real), filtered(noisy.imag))
    return (
        psnr(parts.abs(), truth),
        psnr(filtered(noisy.abs()), truth),
        psnr(filtered(known_phase(clean, sigma, seed).real).clamp_min(0), truth),
        psnr(parts, clean),
    )


def known_phase(clean: Tensor, sigma: float, seed: int) -> Tensor:
    """The magnitude with complex noise, as of an image whose phase was known and taken out."""
    parts = [
        sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + part))
        for part in (0, 1_000_000)
    ]
    return torch.complex(clean.abs() + parts[0], parts[1])


def bm3d_rows(images: list[Tensor]) -> list[dict[str, float]]:
    """One row per noise level: mean PSNR of BM3D given each version, and the best of them."""
    rows = []
    for sigma in SIGMAS:
        scores = [
            bm3d_psnr(clean, add_noise(clean, sigma, index), sigma, _KNOWN_PHASE_SEED + index)
            for index, clean in enumerate(images)
        ]
        *means, complex_mean = np.mean(scores, axis=0)
        row = {"sigma": sigma, "BM3D best": round(float(max(means)), 2)}
        row |= {
            f"BM3D {name}": round(float(mean), 2)
            for name, mean in zip(VERSIONS, means, strict=True)
        }
        row["BM3D complex"] = round(float(complex_mean), 2)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def prior_rows(priors: Mapping[str, Prior], images: list[Tensor]) -> list[dict[str, float]]:
    """One row per noise level: mean PSNR of every prior, without and with the phase known."""
    rows = []
    for sigma in SIGMAS:
        row = {}
        for name, prior in priors.items():
            scores, with_phase, in_parts = [], [], []
            for index, clean in enumerate(images):
                noisy = torch.stack(
                    [
                        add_noise(clean, sigma, index),
                        known_phase(clean, sigma, _KNOWN_PHASE_SEED + index),
                    ]
                )
                found = prior.denoise(noisy, sigma)
                scores.append(psnr(found[0].abs(), clean.abs()))
                in_parts.append(psnr(found[0], clean))
                with_phase.append(psnr(found[1].real.clamp_min(0), clean.abs()))
            row[name] = round(float(np.mean(scores)), 2)
            row[f"{name} known phase"] = round(float(np.mean(with_phase)), 2)
            row[f"{name} complex"] = round(float(np.mean(in_parts)), 2)
        rows.append(row)
        print(sigma, json.dumps(row), flush=True)
    return rows


def against_matrix_size(prior: Prior, images: list[Tensor]) -> dict[int, dict[float, float]]:
    """Complex PSNR after the k-space of 256 x 256 images was cut to smaller matrices."""
    table = {}
    for side in SIDES:
        smaller = [resized_complex(image, (side, side)) for image in images]
        table[side] = {
            sigma: round(score, 2) for sigma, score in denoising_psnr(prior, smaller).items()
        }
        print(side, table[side], flush=True)
    return table


def picture(priors: Mapping[str, Prior], image: Tensor, file: Path) -> None:
    """One slice at each noise level: noisy, every prior, BM3D with known phase."""
    columns = ["noisy", *priors, "BM3D"]
    figure, axes = plt.subplots(len(SIGMAS), len(columns), figsize=(2.4 * len(columns), 12))
    for row, sigma in zip(axes, SIGMAS, strict=True):
        noisy = add_noise(image, sigma, 0)
        shown = [
            noisy.abs(),
            *(prior.denoise(noisy[None], sigma)[0].abs() for prior in priors.values()),
        ]
        shown.append(torch.from_numpy(bm3d.bm3d(noisy.real.double().numpy(), sigma)).abs())
        for axis, name, picture_ in zip(row, columns, shown, strict=True):
            axis.imshow(picture_, cmap="gray", vmin=0, vmax=1.2)
            axis.set_title(f"{name}, σ {sigma:g}", fontsize=7)
            axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(file, dpi=90)
    plt.close(figure)


def main() -> None:
    """Write the tables and a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "validation")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--slices", type=int, default=6, help="of each set, spread evenly")
    parser.add_argument("--keep-bm3d", action="store_true")
    arguments = parser.parse_args()
    names = arguments.model or [DEFAULT_MODEL, "brain-preview"]
    priors = {name: load_prior(name) for name in names}
    file = RESULTS / "denoising.json"
    last = json.loads(file.read_text()) if arguments.keep_bm3d else {}
    if last and last["slices"] != arguments.slices:
        parser.error(f"the last results are of {last['slices']} slices; give --slices")
    results: dict[str, object] = {"slices": arguments.slices, "models": names}
    for name in SETS:
        images = SliceSet([ImageFile(arguments.data / f"{name}.h5")]).evenly(arguments.slices)
        print(name, flush=True)
        rows = prior_rows(priors, images)
        peers = last[name] if last else bm3d_rows(images)
        results[name] = [
            {key: value for key, value in peer.items() if key.startswith(("sigma", "BM3D"))} | row
            for peer, row in zip(peers, rows, strict=True)
        ]
        results[f"{name} against matrix size"] = against_matrix_size(priors[names[0]], images)
    file.write_text(json.dumps(results, indent=2) + "\n")
    public = SliceSet([ImageFile(arguments.data / "open_ms.h5")]).evenly(3)[1]
    picture(priors, public, RESULTS / "denoising.png")


if __name__ == "__main__":
    main()
