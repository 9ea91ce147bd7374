"""The comparison of volumes with their slices, from masks to the files that it leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import record, volumes
from recon.operators import fft2c, grid_radius, ifft2c
from recon.phantom import simulate

SIDE, SLICES = 48, 7


class PowerLaw:
    """Gaussian images of any size whose spectrum falls with the frequency."""

    sigma_range = (0.002, 100.0)

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        radius = grid_radius(noisy.shape[-2:], noisy.device).clamp_min(0.02)
        spectrum = 0.02 / radius**2
        return ifft2c(spectrum / (spectrum + sigma**2) * fft2c(noisy))


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 2)])
def test_caipirinha_shifts_its_lines_round_a_full_centre(rows: int, columns: int) -> None:
    mask = volumes.caipirinha(96, rows, columns)
    centre = slice(96 // 2 - 8, 96 // 2 + 8)
    assert mask[centre, centre].all()
    outer = mask[:30]
    assert outer.sum() * rows * columns == pytest.approx(outer.size, rel=0.03)
    assert outer.any(axis=1).sum() == 30 // rows
    first, second = (outer[row * rows].nonzero()[0] for row in (0, 1))
    assert (np.diff(first) == columns).all()
    assert second[0] - first[0] == 1


@pytest.mark.slow
def test_it_runs_to_its_table_and_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def head(_name: str, side: int, slices: int) -> volumes.Volume:
        return simulate(slices, 1, side, side, slice_distance=2 / side)[1]

    monkeypatch.setattr(volumes, "head", head)
    monkeypatch.setattr(volumes, "load_prior", lambda _name: PowerLaw())
    monkeypatch.setattr(volumes, "WEIGHTS", (0.003,))
    monkeypatch.setattr(volumes, "MASKS", dict(list(volumes.MASKS.items())[::2]))
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    volumes.main([str(SIDE), str(SLICES), "2", "head_00"])
    written = json.loads((tmp_path / "volumes.json").read_text())
    rows = list(csv.DictReader((tmp_path / "volumes.csv").read_text().splitlines()))
    sampled = [(row["mask"], row["way"]) for row in rows if row["mask"]]
    assert sampled == [
        *[("Poisson 6", way) for way in ("slices", "stack", "volume", "L1-wavelet")],
        *[("CAIPIRINHA 3 x 2", way) for way in ("slices", "volume", "L1-wavelet")],
    ]
    assert all(float(row["PSNR mean"]) > 10 for row in rows if row["mask"])
    assert {check["name"] for check in written["checks"]} >= {
        "dB of the mean, volume over slices, Poisson 6",
        "flicker of the volume's samples",
    }
    assert (tmp_path / "volumes.png").stat().st_size > 10_000
