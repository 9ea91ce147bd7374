"""What a GPU makes of it, in eight minutes: equality with the CPU, times, memory, other samplers.

    python -m benchmarks gpu                       # the first GPU
    python -m benchmarks gpu --device cpu --small  # a rehearsal

Every part is begun only while there is time for it; what was left out says so. Times are the best
of three, on random k-space, which costs what real k-space costs. Ends in a table and
`benchmarks/results/gpu.json` (`gpu-rehearsal.json` for another device, which is no result).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from benchmarks.deepinv_samplers import INSTALLED, diffpir, dps_of_deepinv
from benchmarks.record import RESULTS
from benchmarks.samplers import Denoiser, daps
from models import DEFAULT_MODEL
from models.denoiser import NetworkPrior
from models.loading import compute_dtype_for, load_prior
from models.replay import VARIABLE
from recon.choices import PatternName
from recon.noise import NoiseStreams
from recon.operators import CartesianSense
from recon.phantom import receiver_maps, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.sampler import InverseProblem, Level, init, step
from recon.settings import Settings
from recon.solve import hermitian_eigen
from recon.undersampling import undersample, undersampling_mask

SECONDS = 440.0
"""Of the whole: under eight minutes, with what is written at the end."""
TOLERANCE = 1e-3
"""Largest difference of an image from the CPU's after ten steps in float32, over its maximum."""
MATRICES = ((256, 256, 8), (320, 320, 15), (640, 368, 16))
PATTERNS: tuple[PatternName, ...] = ("equispaced", "poisson")
LEVEL = Level(0.3, 0.28, 1.3, 0.03)

Row = dict[str, float | int | str]


class OnDevice(NoiseStreams):
    """Streams for samplers that do not say where they want their numbers."""

    place = torch.device("cpu")

    def normal(
        self, shape: Sequence[int], device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Complex normal numbers (chains, *shape) on the device, by default the bench's."""
        return super().normal(shape, device or self.place)


def problem_of(
    matrix: tuple[int, int, int], pattern: PatternName, device: torch.device
) -> InverseProblem:
    """A slice of (rows, columns, coils) at R = 4, measured of noise."""
    rows, columns, coils = matrix
    mask = torch.from_numpy(undersampling_mask((rows, columns), pattern, 4, 0.08, 0)).to(device)
    maps = torch.from_numpy(receiver_maps(coils, rows, columns)).to(device)
    operator = CartesianSense(maps, mask)
    streams = NoiseStreams.pooled(0, 1)
    measurement = operator.forward(streams.normal((rows, columns)).to(device))[0]
    return InverseProblem(operator, operator.solver(), measurement, LEVEL.eta)


class Bench:
    """A device, a clock that waits for it, and how much time is left."""

    def __init__(self, device: torch.device, *, small: bool) -> None:
        self.device, self.small = device, small
        self._end = time.perf_counter() + SECONDS

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.perf_counter()

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Callable[[], object], warm: int = 3) -> float:
        """The best of three, after runs that warm up (a graph is recorded at the third)."""
        best = float("inf")
        for turn in range(warm + 3):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            if turn >= warm:
                best = min(best, time.perf_counter() - began)
        return best


def marked_tests(bench: Bench) -> Iterator[Row]:
    """The tests that only a GPU can run."""
    if bench.device.type != "cuda" or importlib.util.find_spec("pytest") is None:
        yield {"part": "tests marked gpu", "said": "left out: no GPU or no pytest"}
        return
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/models", "tests/recon"]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, timeout=120
    )
    yield {"part": "tests marked gpu", "said": (done.stdout.splitlines() or ["nothing"])[-1]}


def equality(bench: Bench) -> Iterator[Row]:
    """Ten steps of two chains in float32, beside the CPU's."""
    for pattern in PATTERNS:
        found = []
        for device in (torch.device("cpu"), bench.device):
            problem = problem_of((64, 64, 4), pattern, device)
            prior = load_prior(DEFAULT_MODEL, device, torch.float32)
            noise = NoiseStreams.keyed(0, "equality", range(2))
            state = init(problem, problem.backprojection, 0.3, noise)
            with torch.backends.cudnn.flags(allow_tf32=False):  # float32 by its name only
                for _ in range(10):
                    state, _ = step(problem, prior, LEVEL, state, noise)
            found.append(state.image.cpu())
        error = float((found[1] - found[0]).abs().max() / found[0].abs().max())
        met = "met" if error <= TOLERANCE else "NOT MET"
        yield {"part": f"equality, {pattern}", "difference": error, "said": met}


def decompositions(bench: Bench) -> Iterator[Row]:
    """Eigenvectors of n lines of n voxels, here and on the host, and Cholesky factors once."""
    for size in (24, 32) if bench.small else (180, 256, 320, 640):
        some = min(size, 16)  # one by one in either library: the rest takes as long
        blocks = torch.randn(some, size, size, dtype=torch.complex64, device=bench.device)
        blocks = blocks @ blocks.mH / size + torch.eye(size, device=bench.device)
        lines = size / some
        whole = blocks.repeat(max(1, min(size, 256) // some), 1, 1)
        yield {
            "part": f"decomposition, n = {size}",
            "eigh on the device s": lines * bench.seconds(partial(torch.linalg.eigh, blocks), 1),
            "eigh as used s": lines * bench.seconds(partial(hermitian_eigen, blocks), 1),
            "Cholesky of a level s": size
            / len(whole)
            * bench.seconds(partial(torch.linalg.cholesky, whole), 1),
        }


def steps(bench: Bench) -> Iterator[Row]:
    """A step of the sampler and its parts; graphs and precision."""
    matrices = ((48, 40, 4),) if bench.small else MATRICES
    native = compute_dtype_for(bench.device)
    modes = [(native, "1"), (native, "0"), (torch.float32, "1")]
    for matrix in matrices:
        for pattern in PATTERNS:
            problem = problem_of(matrix, pattern, bench.device)
            for chains in (1, 2) if bench.small else (1, 4, 16, 64):
                for dtype, graphs in modes if chains in (1, 2, 4) else modes[:1]:
                    if bench.left < 120:
                        yield {"part": "steps", "said": "the rest left out for lack of time"}
                        return
                    os.environ[VARIABLE] = graphs
                    prior = load_prior(DEFAULT_MODEL, bench.device, dtype)
                    name = f"step, {matrix[0]} x {matrix[1]} x {matrix[2]}, {pattern}"
                    row: Row = {"part": name, "chains": chains, "precision": str(dtype)[6:]}
                    row["graph"] = graphs
                    yield row | _step(bench, problem, prior, chains)
    os.environ.pop(VARIABLE, None)


def _step(bench: Bench, problem: InverseProblem, prior: NetworkPrior, chains: int) -> Row:
    noise = NoiseStreams.keyed(0, "steps", range(chains))
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(bench.device)
    try:
        state = init(problem, problem.backprojection, 0.3, noise)
        solver, image, white = problem.solver, state.image, state.white
        pull = LEVEL.step / LEVEL.eta**2
        whole = bench.seconds(lambda: step(problem, prior, LEVEL, state, noise))
        network = bench.seconds(lambda: prior.denoise(image, LEVEL.sigma))
        solve = bench.seconds(
            lambda: solver.relaxed(image, image, pull, white, LEVEL.eta**-2, LEVEL.sigma**-2)
        )
        # Sixteen steps' worth: on a GPU they are made at once.
        drawn = bench.seconds(lambda: [solver.white(noise, image) for _ in range(16)]) / 16
    except torch.OutOfMemoryError:
        return {"said": "out of memory"}
    row: Row = {
        "step ms": 1e3 * whole,
        "over bare network": whole / network,
        "ms per image": 1e3 * whole / chains,
        "network": network / whole,
        "solves": solve / whole,
        "noise": drawn / whole,
        "copies and the rest": max(0.0, 1 - (network + solve + drawn) / whole),
    }
    if bench.device.type == "cuda":
        row["peak MiB"] = torch.cuda.max_memory_allocated(bench.device) / 2**20
    return row


def volume(bench: Bench) -> Iterator[Row]:
    """Whole slices of a volume, from k-space to posterior."""
    slices, shape, coils = (2, (48, 48), 4) if bench.small else (20, (256, 256), 8)
    full, _ = simulate(slices, coils, *shape, 40, 0)
    rate, centre = (2, 0.3) if bench.small else (4, 0.08)
    scan = undersample(full, undersampling_mask(shape, "equispaced", rate, centre, 0))
    prior = load_prior(DEFAULT_MODEL, bench.device)
    settings = Settings(preset="fast")
    began, done = time.perf_counter(), 0
    for event in reconstruct(scan, prior, settings, device=bench.device):
        done += isinstance(event, SlicePosterior)
        if bench.left < 60:
            break
    bench.wait()
    pace = done / (time.perf_counter() - began)
    yield {"part": "volume, fast", "slices": done, "slices a second": pace}


def others(bench: Bench) -> Iterator[Row]:
    """Other samplers with the same network: a short run, as long as published by the step."""
    matrix = (48, 40, 4) if bench.small else MATRICES[0]
    problem = problem_of(matrix, "equispaced", bench.device)
    prior = load_prior(DEFAULT_MODEL, bench.device, torch.float32)
    OnDevice.place = bench.device
    exact = {"langevin_steps": 0, "flow_steps": 1}
    runs: list[tuple[str, int, Callable[..., object]]] = [
        ("DAPS, exact draws", 200, lambda d, n, c: daps(problem, d, n, levels=c, **exact))
    ]
    if INSTALLED:
        runs += [
            ("DPS of deepinv", 1000, lambda d, n, c: dps_of_deepinv(problem, d, n, steps=c)),
            ("DiffPIR of deepinv", 100, lambda d, n, c: diffpir(problem, d, n, steps=c)),
        ]
    for name, published, run in runs:
        if bench.left < 20:
            yield {"part": name, "said": "left out for lack of time"}
            continue
        count, denoiser = 4 if bench.small else 20, Denoiser(prior)
        try:
            noise = OnDevice.keyed(0, name, range(1))
            run(denoiser, noise, count)  # warms up
            bench.wait()
            began = time.perf_counter()
            run(denoiser, noise, count)
            bench.wait()
            seconds = (time.perf_counter() - began) / count
        except (RuntimeError, TypeError) as error:  # of other people's code on a new device
            yield {"part": name, "said": str(error).splitlines()[0][:80]}
            continue
        yield {"part": name, "ms a step": 1e3 * seconds, "sample s": seconds * published}
    if not INSTALLED:
        yield {"part": "DPS and DiffPIR of deepinv", "said": "left out: the extra `benchmark`"}


PARTS = (marked_tests, equality, decompositions, volume, others, steps)
"""The longest last: it takes the time that is left."""


def run(bench: Bench) -> list[Row]:
    """All parts, each row printed as it comes."""
    rows = []
    for part in PARTS:
        for row in part(bench):
            print("  ".join(f"{key}: {_short(value)}" for key, value in row.items()), flush=True)
            rows.append({key: _number(value) for key, value in row.items()})
    return rows


def _number(value: float | int | str) -> float | int | str:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _short(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(arguments: Sequence[str] = ()) -> bool:
    """Measure; True when the device's images are the CPU's."""
    parser = argparse.ArgumentParser("python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a rehearsal")
    parser.add_argument("--small", action="store_true", help="tiny problems")
    chosen = parser.parse_args(list(arguments))
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU; --device cpu --small is a rehearsal", file=sys.stderr)
        return False
    began = time.perf_counter()
    rows = run(Bench(device, small=chosen.small))
    real = device.type == "cuda" and not chosen.small
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks gpu", *arguments]),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}",
        "seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / ("gpu.json" if real else "gpu-rehearsal.json")
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{record['device']}: {record['seconds']} s; {file}")
    return not any(row.get("said") == "NOT MET" for row in rows)
