"""What each augmentation is worth: a small network trained without it, judged on held-out images.

    python -m benchmarks.augmentations [--steps 1500] [--seeds 2]

Every run sees the same slices in the same order. Judged by the denoising PSNR (complex, dB, mean of
sigma = 0.05, 0.1, 0.2) on `complex_t2` (real phase and noise) and on `open_ms` patients 19 and 20
(magnitude). The difference to the full recipe is shown with the standard error over seeds.
Writes benchmarks/results/augmentations.json; needs the folder of training images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from models.architectures import build_network
from models.augment import Augmentation
from models.denoiser import NetworkPrior
from models.loading import compute_dtype_for
from models.network_configs import ResidualUNetConfig
from models.processes import Process
from models.train import TrainingConfig, train
from models.training_data import ImageFile, SliceSet
from models.validate import denoising_psnr

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "augmentations.json"
SETS = ("complex_t2", "open_ms")
SIGMAS = (0.05, 0.1, 0.2)
FULL = Augmentation()
WITHOUT: dict[str, dict[str, object]] = {
    "nothing left out": {},
    "flips and transposes": {"flips": False},
    "rotation and zoom": {"resampled": 0.0},
    "gamma and intensity": {"gamma": 0.0, "intensity": 0.0},
    "random tissue contrast": {"tissue": 0.0},
    "coil shading": {"shading": 0.0},
    "smooth phase": {"phase": 0.0},
    "phase of tissues": {"tissue_phase": 0.0},
    "uneven k-space": {"asymmetry": 0.0},
    "receiver noise": {"noisy": 0.0},
}


def trained(
    augmentation: Augmentation, steps: int, seed: int, data: list[ImageFile]
) -> NetworkPrior:
    """A network of 0.3 M parameters after a short run."""
    config = TrainingConfig(
        network=ResidualUNetConfig(channels=(32, 48, 64), blocks=1),
        augmentation=augmentation,
        steps=steps,
        batch=8,
        patch_sizes=(64, 64),
        learning_rate=1e-3,
        warmup=50,
        ema_decay=0.99,
        log_sigma_mean=-2.3,
        log_sigma_std=1.0,
        save_every=steps,
        seed=seed,
    )
    out = Path(tempfile.mkdtemp())
    device = torch.device("cpu")
    try:
        for _ in train(config, data, out, Process(0, 1, device)):
            pass
        network = build_network(config.network)
        network.load_state_dict(load_file(out / "weights.safetensors"))
    finally:
        shutil.rmtree(out)
    return NetworkPrior(network, config.sigma_range, compute_dtype_for(device))


def main() -> None:
    """Train every variant with every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--slices", type=int, default=8, help="of each set, spread evenly")
    arguments = parser.parse_args()
    data = [ImageFile(file) for file in sorted((arguments.data / "train").glob("*.h5"))]
    judged = {
        name: SliceSet([ImageFile(arguments.data / "validation" / f"{name}.h5")]).evenly(
            arguments.slices
        )
        for name in SETS
    }
    scores: dict[str, dict[str, list[float]]] = {}
    for seed in range(arguments.seeds):
        for label, changes in WITHOUT.items():
            prior = trained(FULL.model_copy(update=changes), arguments.steps, seed, data)
            row = scores.setdefault(label, {name: [] for name in SETS})
            for name, images in judged.items():
                found = denoising_psnr(prior, images, SIGMAS)
                row[name].append(round(float(np.mean(list(found.values()))), 3))
            print(seed, label, row, flush=True)
    full = scores["nothing left out"]
    table = {
        label: {
            name: {
                "PSNR": round(float(np.mean(row[name])), 2),
                "change": round(float(np.mean(np.subtract(row[name], full[name]))), 2),
                "standard error": round(
                    float(np.std(np.subtract(row[name], full[name]), ddof=1))
                    / arguments.seeds**0.5,
                    2,
                )
                if arguments.seeds > 1
                else None,
            }
            for name in SETS
        }
        for label, row in scores.items()
    }
    result = {"steps": arguments.steps, "seeds": arguments.seeds, "slices": arguments.slices}
    RESULT.write_text(json.dumps(result | {"without": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
