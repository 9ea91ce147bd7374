"""What the prior's power costs and brings: the shipped prior with its power, and without one.

    python -m benchmarks power

Real scans against the root of the sum of squares of the full scan, and simulated ones against a
truth without noise: preset `fast`, four samples, no self-check.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from benchmarks.beside_wavelets import DATA, Subject, thinned
from benchmarks.record import Check, Outcome, Row, publish
from benchmarks.scans import full_scan
from benchmarks.truth import subjects
from models.denoiser import NetworkPrior
from models.loading import load_prior
from models.registry import read_config
from recon.evaluation import evaluate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.settings import Settings
from service.runs import DEFAULT_MODEL

REAL = (
    ("brain_t1_8ch", 4),
    ("brain_t1_8ch", 8),
    ("brain_wrap_8ch", 4),
    ("head_t1_sagittal_1ch", 3),
    ("complex_t2", 4),
    ("complex_t2", 6),
)
SIMULATED = (
    ("slice 60, noise 0.01", 4),
    ("slice 110, noise 0.01", 8),
    ("slice 156, noise 0.01", 4),
)
"""Parts of names in `benchmarks.truth`."""
SETTINGS = Settings("fast", samples=4, self_check=False)


def cases() -> Iterator[tuple[Subject, int]]:
    """Real scans, then simulated ones, each with its R."""
    for name, acceleration in REAL:
        yield Subject(name, full_scan(name, DATA / "scans")), acceleration
    known = list(subjects())
    for part, acceleration in SIMULATED:
        yield next(each for each in known if part in each.name), acceleration


def row_of(subject: Subject, acceleration: int, powers: Mapping[float, Prior]) -> Row:
    """Scores with every power."""
    scan = thinned(subject.full, acceleration)
    reference = subject.reference(scan)
    row: dict[str, float | int | str | bool | None] = {"scan": subject.name, "R": acceleration}
    for power, prior in powers.items():
        *_, posterior = reconstruct(scan, prior, SETTINGS, [0])
        assert isinstance(posterior, SlicePosterior)
        found = evaluate([posterior], reference).slices[0]
        row |= {
            f"{power:g}: mean PSNR": found.mean.psnr,
            f"{power:g}: mean PSNR, noise told": found.predicted.psnr,
            f"{power:g}: sample PSNR": found.sample.psnr,
            f"{power:g}: cover50": found.predicted_50,
            f"{power:g}: cover90": found.predicted_90,
        }
    print(row, flush=True)
    return row


def run() -> list[Row]:
    """A row for every case."""
    shipped = load_prior(DEFAULT_MODEL)
    plain = NetworkPrior(
        shipped.network, shipped.sigma_range, shipped.compute_dtype, symmetric=shipped.symmetric
    )
    powers = {plain.power: plain, shipped.power: shipped}
    return [row_of(subject, acceleration, powers) for subject, acceleration in cases()]


def outcome(rows: Sequence[Row]) -> Outcome:
    """Whether intervals hold what they say with the power that ships."""
    power = read_config(DEFAULT_MODEL).power
    checks = tuple(
        Check(
            f"{row['scan']} R={row['R']}: 90 % holds",
            float(row[f"{power:g}: cover90"] or 0),
            0.9,
            0.03,
        )
        for row in rows
    )
    return Outcome(checks, tuple(rows), "one run each: a tenth of a decibel means nothing")


def draw(rows: Sequence[Row]) -> Figure:
    """What 90 % intervals hold, with every power."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = [f"{row['scan']} R={row['R']}" for row in rows]
    for key in [key for key in rows[0] if key.endswith("cover90")]:
        held = [float(row[key] or 0) for row in rows]
        axes.plot(held, names, "o", label=f"power {key.split(':')[0]}")
    axes.axvline(0.9, color="grey", linewidth=0.8)
    axes.set(xlabel="pixels inside 90 % intervals")
    axes.legend()
    return figure


def main() -> bool:
    """Whether intervals hold what they say."""
    torch.set_num_threads(1)
    return publish("power", run, outcome, draw)


if __name__ == "__main__":
    sys.exit(not main())
