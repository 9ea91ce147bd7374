"""Which non-uniform Fourier transform: accuracy and speed of those that can be installed.

python -m benchmarks.nufft        # finufft comes with the project; also pip install --no-deps
                                  # torchkbnufft to compare; sigpy's is there in any case
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial

import finufft
import numpy as np
import sigpy
import torch

from recon.noncartesian import toeplitz, toeplitz_kernel

SIZE, COILS, SPOKES, SAMPLES = 256, 8, 128, 512


def main() -> None:
    """Print one line per library: seconds forward and adjoint, relative error."""
    torch.set_num_threads(2)
    points, images = _problem()
    chosen = np.random.default_rng(1).choice(len(points), 400, replace=False)
    exact = _sums(images, points[chosen].astype(np.float64))

    def report(name: str, forward: Callable[[], np.ndarray], adjoint: Callable[[], object]) -> None:
        seconds = _seconds(forward)
        back, values = _seconds(adjoint), forward()
        error = np.linalg.norm(values[:, chosen] - exact) / np.linalg.norm(exact)
        print(f"{name:28} {seconds:8.3f} s {back:8.3f} s   {error:.1e}")

    print(f"{COILS} coils, {SIZE} x {SIZE}, {SPOKES} x {SAMPLES} samples, single precision")
    print(f"{'':28} {'forward':>10} {'adjoint':>10}   error")
    row, column = (np.ascontiguousarray(2 * np.pi * points[:, axis]) for axis in (0, 1))
    values = finufft.nufft2d2(row, column, images, isign=-1)
    for eps in (1e-3, 1e-6):
        report(
            f"finufft, eps {eps:g}",
            partial(finufft.nufft2d2, row, column, images, eps=eps, isign=-1, nthreads=2),
            partial(
                finufft.nufft2d1, row, column, values, (SIZE, SIZE), eps=eps, isign=1, nthreads=2
            ),
        )
    _torchkbnufft(report, points, images)
    coordinates = points * SIZE
    for width, over in ((4, 1.25), (6, 2.0)):
        report(
            f"sigpy, width {width}, grid {over:g}",
            partial(sigpy.nufft, SIZE * images, coordinates, oversamp=over, width=width),
            partial(
                sigpy.nufft_adjoint,
                values,
                coordinates,
                (COILS, SIZE, SIZE),
                oversamp=over,
                width=width,
            ),
        )
    place = torch.from_numpy(points)
    kernel = toeplitz_kernel(place, torch.ones(len(points), dtype=torch.float64), (SIZE, SIZE))
    stack = torch.from_numpy(images)
    seconds = _seconds(lambda: toeplitz(kernel.float(), stack))
    print(f"{'A^H A by Toeplitz embedding':28} {seconds:8.3f} s")


def _torchkbnufft(report: Callable[..., None], points: np.ndarray, images: np.ndarray) -> None:
    if importlib.util.find_spec("torchkbnufft") is None:
        print("torchkbnufft is not installed")
        return
    import torchkbnufft  # lazy: not a dependency

    where = torch.from_numpy(2 * np.pi * points.T.copy())
    stack = torch.from_numpy(images)[None]
    forward = torchkbnufft.KbNufft((SIZE, SIZE))
    adjoint = torchkbnufft.KbNufftAdjoint((SIZE, SIZE))
    values = forward(stack, where)
    report(
        "torchkbnufft, 6 points",
        lambda: forward(stack, where)[0].numpy(),
        lambda: adjoint(values, where),
    )


def _problem() -> tuple[np.ndarray, np.ndarray]:
    angles = np.arange(SPOKES) * np.pi * (np.sqrt(5) - 1) / 2
    radius = (np.arange(SAMPLES) - SAMPLES // 2) / SAMPLES
    points = np.stack([np.outer(np.cos(angles), radius), np.outer(np.sin(angles), radius)], -1)
    rng = np.random.default_rng(0)
    shape = (COILS, SIZE, SIZE)
    images = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    return points.reshape(-1, 2).astype(np.float32), images


def _sums(images: np.ndarray, points: np.ndarray) -> np.ndarray:
    index = np.arange(SIZE) - SIZE // 2
    by_row = np.exp(-2j * np.pi * np.outer(points[:, 0], index))
    by_column = np.exp(-2j * np.pi * np.outer(points[:, 1], index))
    return np.einsum("kr,crk->ck", by_row, images.astype(np.complex128) @ by_column.T)


def _seconds(run: Callable[[], object]) -> float:
    """The best of three, after one to warm up."""
    run()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
