"""Scans of the harder kinds, and the table that our mean and the others stand in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.beside_wavelets import checks, compare, draw, row_of, simulated, thinned
from benchmarks.contrast import folded, head_of, inverted
from benchmarks.priors import chosen_priors
from benchmarks.small import cut
from models.errors import ModelError
from models.install import package
from recon.phantom import simulate
from recon.reference import reference_of
from recon.scan import Geometry
from recon.settings import Settings
from tests.models.model_files import ABOUT, write_run
from tests.problems import power_law_prior


def test_the_truth_is_the_scan_without_its_noise() -> None:
    image = simulate(1, 1, 48, 64)[1][0]
    subject = simulated("head", image, 4, 0.01, 3)
    assert subject.truth is not None
    found = reference_of(subject.full, subject.full.mask).images[0]
    inside = np.abs(image) > 0.3
    error = (found - subject.truth)[inside]
    # Coils couple: the noise along the signal is 0.01 per component on average.
    assert error.std() == pytest.approx(0.01, rel=0.35)
    assert abs(error.mean()) < 0.002


def test_a_cut_scan_has_larger_pixels_the_same_object_and_the_same_noise() -> None:
    full, _ = simulate(1, 4, 96, 128, snr=30)
    small = cut(full, 64, 64)
    assert small.image_shape == (64, 64)
    assert small.view_mm == pytest.approx(full.view_mm)
    assert np.array_equal(small.kspace[..., 32, 32], full.kspace[..., 48, 64])
    before, after = (reference_of(scan, scan.mask).images[0] for scan in (full, small))
    # Orthonormal transforms: fewer pixels of the same object are brighter.
    ratio = np.linalg.norm(after) / np.linalg.norm(before)
    assert ratio == pytest.approx(1, abs=0.05)
    oversampled = replace(full, geometry=Geometry((100, 100, 5), (48, 128)))
    assert cut(oversampled, 64, 64).geometry.recon_shape == (32, 64)


def test_turned_contrasts_keep_the_air_dark() -> None:
    image = np.abs(simulate(1, 1, 96, 96)[1][0]).astype(np.float32)
    head = head_of(image)
    air = np.zeros((96, 96), bool)
    air[:12, :12] = air[-12:, -12:] = True
    for turned in (inverted(image), folded(image)):
        assert turned.min() >= 0
        assert turned.max() <= 1.1 + 1e-6
        assert turned[air].max() < 0.02
    inside = head > 0.99
    assert np.corrcoef(image[inside], inverted(image)[inside])[0, 1] < -0.99
    assert abs(np.corrcoef(image[inside], folded(image)[inside])[0, 1]) < 0.95
    assert not head_of(np.zeros((32, 32), np.float32)).any()


def test_one_row_has_every_method_and_every_prior_in_the_units_of_the_truth() -> None:
    image = simulate(1, 1, 64, 64)[1][0]
    subject = simulated("head", image, 4, 0.01, 3)
    fast = Settings(preset="fast", samples=2, self_check=False, fit_noise=False)
    priors = {"a": power_law_prior(64), "/folder/b": power_law_prior(64)}
    row = row_of(subject, 2, priors, fast)
    assert (row["scan"], row["matrix"], row["R"]) == ("head", "64 x 64", 2)
    # In other units than the truth's everything would be below ten.
    for key in ("L1 PSNR", "CG-SENSE PSNR", "a: mean PSNR", "b: mean PSNR", "a: sample PSNR"):
        assert 15 < float(row[key] or 0) < 60, key
    assert row["a: mean PSNR"] == row["b: mean PSNR"]
    best = max(float(row["L1 PSNR"] or 0), float(row["CG-SENSE PSNR"] or 0))
    assert row["a: gain dB"] == pytest.approx(float(row["a: mean PSNR"] or 0) - best)
    assert [check.met for check in checks([row])] == [float(row["a: gain dB"] or 0) > 0] * 2
    assert len(draw([row]).axes) == 1


def test_a_table_can_be_made_in_parts(capsys: pytest.CaptureFixture[str]) -> None:
    subject = simulated("head", simulate(1, 1, 64, 64)[1][0], 4, 0.01, 3)
    assert compare("small", "About it.", [subject], (3, 4), ["--only", "another"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        compare("small", "About it.", [subject], (3, 4), ["--help"])
    assert "a name or a folder" in capsys.readouterr().out


def test_the_centre_is_wide_enough_for_coil_maps() -> None:
    full, _ = simulate(1, 4, 96, 96)
    mask = thinned(full, 4).mask[0]
    assert mask[48 - 7 : 48 + 7].all()
    assert int(mask.sum()) == pytest.approx(24, abs=3)


def test_priors_are_taken_by_name_or_by_folder(tmp_path: Path) -> None:
    folder = package(write_run(tmp_path / "run", random=False), tmp_path, "tiny", **ABOUT)
    assert list(chosen_priors([str(folder)])) == [str(folder)]
    assert list(chosen_priors([])) == ["brain-small"]
    with pytest.raises(ModelError, match="there is no model"):
        chosen_priors(["nothing-of-the-kind"])
