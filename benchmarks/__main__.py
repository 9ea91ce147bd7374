"""Run experiments by name: python -m benchmarks [NAME ...]; without a name, list them."""

from __future__ import annotations

import importlib
import sys

EXPERIMENTS = {
    "ring": "the noisy ring, its Hessian, and localized annealed Langevin on it",
    "variance_dip": "plain Langevin contracts on its way, annealed Langevin does not",
    "thin_shell": "a score error hidden on a thin shell fools plain Langevin only",
    "bars": "annealing keeps mode weights; the Fisher divergence is blind to them; ablations",
    "growth": "network evaluations against dimension and signal-to-noise ratio",
    "refinement": "error of the refined image against that of the coarse one",
    "speed": "time beside the network's own, against chains, coils, matrix and kind of mask",
    "folding": "a field of view smaller than the head, with one set of coil maps and with two",
    "few_lines": "six to ten central lines: coil maps as found, found again, and of 32 lines",
    "frontier": "evaluations that reach what `thorough` finds, and where the presets lie",
    "inverse_problems": "inpainting, super-resolution, deblurring with the shipped prior; DPS",
    "archive_prior": "a prior learned from undersampled scans, and from full ones; an hour",
    "alarm": "scans that are right, and scans of which something is not as it was assumed",
    "volumes": "a scan encoded in three dimensions: one volume, slices, L1-wavelet; an hour",
    "coverage": "true values inside the intervals, before and after the conformal factor",
    "three_steps": "coarse image, localized draw, posterior draw of an MR slice, as pictures",
    "expected_error": "by how much the prior errs more than it expects to, on real scans",
    "small": "small matrices and large pixels: real scans cut in k-space",
    "contrast": "contrasts that the prior was never taught",
    "truth": "scans whose truth is known without noise",
    "varnet": "fastMRI's supervised network, taught an hour on the prior's images, on other masks",
    "gpu": "a GPU: equality with the CPU, times, memory, others; eight minutes (--device, --small)",
    "power": "the prior with its power and without one: intervals, means, samples",
    "peers": "our samplers and other people's on the same scans, maps, noise and prior; hours",
}

SEPARATE = {
    "alarm",
    "archive_prior",
    "contrast",
    "coverage",
    "expected_error",
    "few_lines",
    "frontier",
    "gpu",
    "inverse_problems",
    "peers",
    "power",
    "small",
    "speed",
    "truth",
    "varnet",
    "volumes",
}


def main(names: list[str]) -> int:
    """0 when all numbers were met, 1 when one was not, 2 for a name that is not there."""
    if names[:1] == ["gpu"] and names[1:2] and names[1].startswith("-"):  # its options follow
        return 0 if importlib.import_module("benchmarks.gpu").main(names[1:]) else 1
    unknown = [name for name in names if name not in EXPERIMENTS and name != "all"]
    if unknown or not names:
        if unknown:
            print(f"there is no experiment '{unknown[0]}'; the names are:", file=sys.stderr)
        for name, subject in EXPERIMENTS.items():
            print(f"{name:18}{subject}")
        print(f"{'all':18}all of these but {', '.join(sorted(SEPARATE))}, which take longer")
        return 2 if unknown else 0
    chosen = [name for name in EXPERIMENTS if name not in SEPARATE] if "all" in names else names
    met = [importlib.import_module(f"benchmarks.{name}").main() for name in chosen]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
