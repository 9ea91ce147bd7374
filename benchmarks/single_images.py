"""Reconstructions that give one image and no uncertainty: linear, sparse, and BART's.

Every regularised method gets the best of five weights *by PSNR against the truth*, which none would
have in practice. Weights are in units of the noise std (wavelets, total variation).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sigpy
import sigpy.mri.app as mri_app
import torch
from torch import Tensor

from recon.coarse import cg_sense, l1_wavelet, radial_spectrum
from recon.operators import CartesianSense
from recon.sampler import InverseProblem

WEIGHTS = (0.03, 0.06, 0.125, 0.25, 0.5)
ITERATIONS = 100


def zero_filled(problem: InverseProblem) -> Tensor:
    """A^H y, (rows, columns)."""
    return problem.backprojection


def conjugate_gradient_sense(problem: InverseProblem) -> Tensor:
    """SENSE with the Tikhonov weight that our coarse image has."""
    return cg_sense(problem, radial_spectrum(problem))


def wavelet(problem: InverseProblem, weight: float) -> Tensor:
    """Sigpy's L1-wavelet (FISTA)."""
    return l1_wavelet(problem, weight * problem.noise_std, ITERATIONS)


def total_variation(problem: InverseProblem, weight: float) -> Tensor:
    """Sigpy's total variation (primal-dual hybrid gradient); the first maps where voxels fold."""
    operator = _cartesian(problem)
    maps, overlap = operator.coil_maps, operator.overlap
    app = mri_app.TotalVariationRecon(
        problem.measurement.numpy(),
        (maps if overlap is None else overlap.split(maps)[0]).numpy(),
        weight * problem.noise_std,
        weights=operator.mask.numpy().astype(np.float32),
        device=sigpy.cpu_device,
        max_iter=2 * ITERATIONS,
        show_pbar=False,
    )
    image = torch.from_numpy(np.asarray(app.run(), dtype=np.complex64))
    return image if overlap is None else overlap.padded(image)


def bart(problem: InverseProblem, weight: float, regularisation: str) -> Tensor:
    """BART's `pics` with `regularisation` W (wavelet) or T (total variation), data not rescaled.

    It takes both sets of maps where voxels fold.
    """
    operator = _cartesian(problem)
    sets, overlap = [operator.coil_maps], operator.overlap
    if overlap is not None:
        inside, strip = overlap.split(operator.coil_maps)
        sets = [inside, torch.zeros_like(inside).index_copy(overlap.axis, overlap.positions, strip)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write(place / "kspace", (problem.measurement * operator.mask).numpy()[None])
        _write(place / "maps", torch.stack(sets).numpy())
        penalty = f"{regularisation}:3:0:{weight * problem.noise_std:.6g}"
        command = ["bart", "pics", "-S", "-w", "1", "-i", str(ITERATIONS), "-R", penalty]
        subprocess.run(
            [*command, "kspace", "maps", "image"],
            cwd=place,
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        images = torch.from_numpy(_read(place / "image", (len(sets), *operator.mask.shape)))
    image = images[0]
    if overlap is not None:
        beyond = images[1].index_select(overlap.axis, overlap.positions)
        image = torch.cat([image, beyond], dim=overlap.axis)
    # Where half a side is odd, BART's transform is minus the centred one.
    agreement = (operator.forward(image).conj() * problem.measurement).sum()
    return image * (agreement / agreement.abs())


def methods() -> dict[str, tuple[Callable[..., Tensor], tuple[dict[str, float | str], ...]]]:
    """Name, function and the settings to choose from; BART only where the machine has it."""
    tried: tuple[dict[str, float | str], ...] = tuple({"weight": w} for w in WEIGHTS)
    found: dict[str, tuple[Callable[..., Tensor], tuple[dict[str, float | str], ...]]] = {
        "zero-filled": (zero_filled, ({},)),
        "CG-SENSE": (conjugate_gradient_sense, ({},)),
        "L1-wavelet (sigpy)": (wavelet, tried),
        "total variation (sigpy)": (total_variation, tried),
    }
    if shutil.which("bart"):
        for name, letter in (("L1-wavelet (BART)", "W"), ("total variation (BART)", "T")):
            found[name] = (bart, tuple({**each, "regularisation": letter} for each in tried))
    return found


def _cartesian(problem: InverseProblem) -> CartesianSense:
    if not isinstance(problem.operator, CartesianSense):
        raise TypeError("these methods are for Cartesian scans")
    return problem.operator


def _write(path: Path, sets: np.ndarray) -> None:
    """(sets, coils, rows, columns) as a BART file: dimensions x, y, z, coil, set, first fastest."""
    count, coils, rows, columns = sets.shape
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{rows} {columns} 1 {coils} {count}\n")
    ordered = np.transpose(sets, (2, 3, 1, 0)).astype(np.complex64)
    path.with_suffix(".cfl").write_bytes(ordered.tobytes(order="F"))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """(sets, rows, columns) of one coil."""
    count, rows, columns = shape
    values = np.fromfile(path.with_suffix(".cfl"), dtype=np.complex64)[: count * rows * columns]
    return np.ascontiguousarray(
        np.transpose(values.reshape((rows, columns, count), order="F"), (2, 0, 1))
    )
