"""Files of Debian's ismrmrd-tools, an implementation by others: read, reconstructed, compared."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon.io.files import inspect_scan, read_scan
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.quick_look import zero_filled
from recon.settings import Settings

GENERATOR, REFERENCE = "ismrmrd_generate_cartesian_shepp_logan", "ismrmrd_recon_cartesian_2d"
SIZE = 64


def generated(folder: Path, *options: str, size: int = SIZE) -> Path:
    if shutil.which(GENERATOR) is None or shutil.which(REFERENCE) is None:
        pytest.skip("Debian's ismrmrd-tools are not installed")
    path = folder / "phantom.h5"
    command = [GENERATOR, "-m", str(size), "-c", "6", "-o", str(path), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


def posteriors_of(path: Path, repetition: int | None = None) -> list[SlicePosterior]:
    """With a prior that says little: white images much stronger than the phantom's pixels."""
    scan = read_scan(path, select=None if repetition is None else {"repetition": repetition})
    shape = scan.image_shape
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.full(shape, 1.0))
    settings = Settings(preset="fast", samples=2, self_check=False, fit_noise=False)
    return [e for e in reconstruct(scan, prior, settings) if isinstance(e, SlicePosterior)]


def reference_of(path: Path) -> np.ndarray:
    """(rows, columns) root sum of squares by the reference program, which writes into the file."""
    subprocess.run([REFERENCE, str(path)], check=True, capture_output=True, timeout=120)
    with h5py.File(path) as file:
        return file["dataset/cpp/data"][0, 0, 0].T


def common(ours: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that both have, voxel n // 2 on voxel n // 2."""
    rows = min(len(ours), len(reference))
    cut = [image[len(image) // 2 - rows // 2 :][:rows] for image in (ours, reference)]
    return cut[0], cut[1]


OPTIONS = {
    "noise": (["-n", "0.02"], 1, (1, 6, SIZE, SIZE), 1.0),
    # The generator's fields of view are those of an oversampling of two, whatever it is: what lies
    # inside them is half of the readout.
    "no oversampling": (["-n", "0.02", "-O", "1"], 1, (1, 6, SIZE // 2, SIZE), 1.0),
    "oversampling": (["-n", "0.01", "-O", "3"], 1, (1, 6, 3 * SIZE // 2, SIZE), 1.0),
    "repetitions": (["-n", "0.01", "-r", "3"], 1, (3, 6, SIZE, SIZE), 1.0),
    "noise scan": (["-n", "0.02", "-C"], 1, (1, 6, SIZE, SIZE), 1.0),
    "coordinates": (["-n", "0.02", "-k"], 1, (1, 6, SIZE, SIZE), 1.0),
    "acceleration": (["-n", "0.01", "-a", "2", "-w", "16"], 2, (1, 6, SIZE, SIZE), 64 / 40),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_files_of_the_generator_are_read(name: str, tmp_path: Path) -> None:
    options, patterns, shape, acceleration = OPTIONS[name]
    path = generated(tmp_path, *options)
    for pattern in range(patterns):
        scan = read_scan(path, select=None if patterns == 1 else {"repetition": pattern})
        assert scan.kspace.shape == shape
        assert scan.acceleration == pytest.approx(acceleration)
        assert (scan.noise_samples is not None) == (name == "noise scan")
    if patterns == 1:
        assert inspect_scan(path) == shape
        if name != "noise scan":  # the reference program stumbles over noise readouts
            # It keeps the last repetition, and another part of the readout (see above).
            ours, reference = common(zero_filled(read_scan(path))[-1], reference_of(path))
            scale = (ours * reference).sum() / (ours**2).sum()
            assert np.abs(scale * ours - reference).max() < 1e-3 * reference.max()


# Large and noisy enough that the edge of k-space is noise. Whitened by a covariance with signal in
# it, coils would weigh otherwise than in the reference's root sum of squares.
LARGE = 128
NOISY = ("-n", "0.05")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("-O", "3"), ("-k",)], ids=["plain", "oversampled", "coordinates"]
)
def test_the_mean_of_full_scans_is_the_reference_programs_within_the_noise(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    path = generated(tmp_path, *NOISY, *options, size=LARGE)
    [posterior] = posteriors_of(path)
    reference = reference_of(path)
    inside, _ = common(posterior.object_mask, reference)
    ours, reference = common(np.abs(posterior.mean), reference)
    scale = (ours * reference)[inside].sum() / (ours**2)[inside].sum()
    error = np.sqrt(np.mean((scale * ours - reference)[inside] ** 2))
    assert error < 1.2 * scale * posterior.noise_std
    assert np.corrcoef(ours[inside], reference[inside])[0, 1] > 0.98
    assert 0.85 < posterior.chi2_per_coil.mean() < 1.15


@pytest.mark.slow
def test_an_accelerated_file_is_reconstructed(tmp_path: Path) -> None:
    full = reference_of(generated(tmp_path, "-n", "0", size=LARGE))
    path = generated(tmp_path, *NOISY, "-a", "2", "-w", "24", size=LARGE)
    for repetition in (0, 1):
        [posterior] = posteriors_of(path, repetition)
        inside = posterior.object_mask
        ours = np.abs(posterior.mean)
        assert np.corrcoef(ours[inside], full[inside])[0, 1] > 0.95
        assert 0.85 < posterior.chi2_per_coil.mean() < 1.2
