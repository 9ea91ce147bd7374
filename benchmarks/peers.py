"""Our samplers and other people's on the same scans, maps, noise and prior.

    python -m benchmarks peers
    python -m benchmarks.peers [--only REGULAR-EXPRESSION] [--model NAME]

One JSON record per contestant and scan goes to benchmarks/results/peers/ as soon as it is done: a
run that was stopped goes on where it was, and `--only` ("phantom", "brain.*DAPS") makes a part. The
table, peers.json, .csv and .png, is of all records that are there.

Every posterior sampler draws 8 samples with our denoiser (`benchmarks.samplers.Denoiser`), from the
same whitened data with the noise level that our pilot run settled. Times are CPU seconds of one
thread in units of one network evaluation, which is timed right before and after: other work on the
machine stretches both alike. Without the folder of scans the phantom is used alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import PEERS, TUNED, Peer, Values, our_preset
from benchmarks.peer_tables import BUDGETS, CASES, CURVES, draw, outcome
from benchmarks.record import RESULTS, publish
from benchmarks.samplers import Denoiser
from benchmarks.shared_slice import (
    Case,
    SharedSlice,
    image_scores,
    picture_scores,
    prepare,
    sample_scores,
)
from benchmarks.single_images import methods
from models.loading import load_prior
from recon.noise import NoiseStreams
from recon.paths import MeasurementPath
from recon.pipeline import CoarseReady, reconstruct
from recon.posterior import SlicePosterior
from recon.power import power_of
from recon.prior import Prior
from recon.schedule import Preset
from recon.settings import Settings
from recon.symmetry import is_symmetric
from service.runs import DEFAULT_MODEL

TUNING = Case("phantom-tuning", 4, 0.13)
SAMPLES, CURVE_SAMPLES, TUNING_SAMPLES = 8, 4, 2
OURS: dict[str, Settings] = {
    "ours, fast": Settings(preset="fast", samples=SAMPLES, self_check=False),
    "ours, standard": Settings(preset="standard", samples=SAMPLES, self_check=False),
    "ours, standard, measurement path": Settings(
        preset="standard", samples=SAMPLES, self_check=False, path=MeasurementPath()
    ),
}
Record = dict[str, Any]


@dataclass(frozen=True)
class Budgeted(Settings):
    """Our settings for a number of network evaluations per chain."""

    evaluations: int = 40

    @property
    def resolved(self) -> Preset:
        return our_preset(self.evaluations, CURVE_SAMPLES)


@dataclass(frozen=True)
class Job:
    """One contestant on one scan."""

    case: Case
    name: str
    run: Callable[[SharedSlice, Denoiser], Record]

    @property
    def key(self) -> str:
        return f"{self.case.name} | {self.name}"


class Bench:
    """Records on disk, and slices prepared once."""

    def __init__(self, prior: Prior, folder: str = "peers") -> None:
        self.prior = prior
        self.folder = RESULTS / folder
        self._slices: dict[str, SharedSlice] = {}

    def kept(self, key: str, make: Callable[[], Record]) -> Record:
        """The record of a key, made if it is not there."""
        file = self.folder / (re.sub(r"[^A-Za-z0-9=.]+", "-", key) + ".json")
        if file.is_file():
            found: Record = json.loads(file.read_text())
            return found
        record = {"key": key, **make()}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(file)
        print(json.dumps(record), flush=True)
        return record

    def records(self) -> dict[str, Record]:
        """All that are there, by key."""
        found = [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))]
        return {record["key"]: record for record in found}

    def shared(self, case: Case) -> SharedSlice:
        """The prepared slice of a case."""

        def levels(find: Callable[[], tuple[float, float]]) -> tuple[float, float]:
            made = self.kept(
                f"{case.name} | prepared",
                lambda: dict(zip(("noise_std", "scale"), find(), strict=True)),
            )
            return made["noise_std"], made["scale"]

        if case.name not in self._slices:
            self._slices[case.name] = prepare(case, levels, self.prior)
        return self._slices[case.name]

    def tuned(self, peer: Peer) -> Values:
        """The best of the peer's grid on the tuning phantom."""
        tried = []
        for settings in peer.grid:
            text = ", ".join(f"{key} {value}" for key, value in settings.items())
            record = self.kept(
                f"{TUNING.name} | {peer.name} | {text}",
                partial(self._try, peer, settings),
            )
            # A diverged run has no PSNR.
            tried.append((record["mean PSNR"] or float("-inf"), record["settings"]))
        best: Values = max(tried, key=lambda each: each[0])[1]
        return best

    def _try(self, peer: Peer, settings: Values) -> Record:
        shared = self.shared(TUNING)
        denoiser = shared.denoiser(self.prior)
        spent = peer.spend(settings, TUNED)
        record = peer_record(peer, shared, denoiser, spent, TUNING_SAMPLES)
        return {**record, "settings": dict(settings)}


def timed(denoiser: Denoiser, shared: SharedSlice, make: Callable[[], Record]) -> Record:
    """The record with its evaluations and its time, in seconds and in network evaluations."""
    noisy = NoiseStreams.keyed(0, "clock", range(SAMPLES)).normal(shared.inside.shape)

    def tick() -> float:
        started = time.process_time()
        denoiser.prior.denoise(noisy, 0.1)
        return (time.process_time() - started) / SAMPLES

    tick()
    first, images = tick(), denoiser.images
    wall, cpu = time.perf_counter(), _cpu()
    record = make()
    wall, cpu = time.perf_counter() - wall, _cpu() - cpu
    wall, cpu = record.pop("wall", wall), record.pop("cpu", cpu)
    count = record.get("samples") or 1
    unit = (first + tick()) / 2
    return record | {
        "evaluations": (denoiser.images - images) / count,
        "wall seconds": wall / count,
        "CPU seconds": cpu / count,
        "in network evaluations": cpu / count / unit,
    }


def _cpu() -> float:
    """CPU seconds of this process and of the programs it has run."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def peer_record(
    peer: Peer, shared: SharedSlice, denoiser: Denoiser, settings: Values, samples: int
) -> Record:
    """Draw and judge; a run that left the finite numbers has no scores."""
    noise = NoiseStreams.keyed(0, f"peer-{peer.name}", range(samples))

    def make() -> Record:
        found = peer.draw(shared.problem, denoiser, noise, settings)
        if not bool(torch.isfinite(found).all()):
            return {"samples": samples, "mean PSNR": None, "diverged": True}
        return {"samples": samples, **sample_scores(shared, found)}

    return {"settings": dict(settings), **timed(denoiser, shared, make)}


def our_record(shared: SharedSlice, denoiser: Denoiser, settings: Settings) -> Record:
    """Our reconstruction from the coarse image on: its pilot run is counted, calibration is not."""

    def make() -> Record:
        wall = cpu = 0.0
        prior = _Counted(denoiser, shared.inside.shape)
        for event in reconstruct(shared.scan, prior, settings, [0]):
            if isinstance(event, CoarseReady):
                wall, cpu = time.perf_counter(), _cpu()
            if isinstance(event, SlicePosterior):
                posterior = event
        wall, cpu = time.perf_counter() - wall, _cpu() - cpu
        samples = _inner(shared, posterior.samples)
        mean = picture_scores(shared, _inner(shared, posterior.mean))
        return {
            "samples": len(samples),
            **sample_scores(shared, samples, posterior),
            "all draws PSNR": mean.psnr,
            "all draws SSIM": mean.ssim,
            "wall": wall,
            "cpu": cpu,
        }

    return timed(denoiser, shared, make)


def _inner(shared: SharedSlice, images: Any) -> Tensor:  # noqa: ANN401
    return torch.from_numpy(images / shared.factor).to(torch.complex64)


@dataclass(frozen=True)
class _Counted:
    """Our own sampler's prior: the denoiser within its trained levels, counted."""

    denoiser: Denoiser
    shape: tuple[int, ...]
    """Of the images that count, transposed or not: a strip beyond an edge belongs to its image."""

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.denoiser.prior.sigma_range

    @property
    def symmetric(self) -> bool:
        return is_symmetric(self.denoiser.prior)

    @property
    def power(self) -> float:
        return power_of(self.denoiser.prior)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        self.denoiser.images += len(noisy) * (sorted(noisy.shape[1:]) == sorted(self.shape))
        return self.denoiser.prior.denoise(noisy, sigma)


def single_record(
    shared: SharedSlice, denoiser: Denoiser, method: Callable[..., Tensor], tried: Sequence[Values]
) -> Record:
    """The best of the settings by PSNR against the truth; the time is that of one run."""
    found = []
    for settings in tried:

        def make(values: Mapping[str, Any] = settings) -> Record:
            return {"image": method(shared.problem, **values)}

        record = timed(denoiser, shared, make)
        scores = image_scores(shared, record.pop("image"))
        found.append({"settings": dict(settings), **record, **scores})
    return max(found, key=lambda each: float(each["PSNR"]))


def jobs(bench: Bench) -> Iterator[Job]:
    """Everything to run, the long runs last."""
    for case in (each for each in CASES if each.available):
        for name, settings in OURS.items():
            yield Job(case, name, partial(our_record, settings=settings))
        for name, (method, tried) in methods().items():
            yield Job(case, name, partial(single_record, method=method, tried=tried))
        for peer in PEERS:
            yield Job(case, f"{peer.name}, tuned", _spending(bench, peer, TUNED, SAMPLES))
    for case in (each for each in CURVES if each.available):
        for count in BUDGETS:
            yield Job(case, f"curve | ours | {count}", _our_spending(count))
            for peer in PEERS:
                spending = _spending(bench, peer, count, CURVE_SAMPLES)
                yield Job(case, f"curve | {peer.name} | {count}", spending)
    for case in (each for each in CASES if each.available):
        for peer in PEERS:
            yield Job(case, f"{peer.name}, published", _published(peer))


def _spending(
    bench: Bench, peer: Peer, count: int, samples: int
) -> Callable[[SharedSlice, Denoiser], Record]:
    return lambda shared, denoiser: peer_record(
        peer, shared, denoiser, peer.spend(bench.tuned(peer), count), samples
    )


def _published(peer: Peer) -> Callable[[SharedSlice, Denoiser], Record]:
    return lambda shared, denoiser: peer_record(peer, shared, denoiser, peer.published, SAMPLES)


def _our_spending(count: int) -> Callable[[SharedSlice, Denoiser], Record]:
    settings = Budgeted(self_check=False, evaluations=count)
    return lambda shared, denoiser: our_record(shared, denoiser, settings)


def _record_of(bench: Bench, job: Job) -> Record:
    shared = bench.shared(job.case)
    return job.run(shared, shared.denoiser(bench.prior))


def run(prior: Prior, only: str = "") -> dict[str, Record]:
    """Make what is missing and give all records."""
    torch.set_num_threads(1)
    bench = Bench(prior)
    for job in jobs(bench):
        if re.search(only, job.key):
            bench.kept(job.key, partial(_record_of, bench, job))
    return bench.records()


def main(arguments: Sequence[str] = ()) -> bool:
    """Run what is missing, write the table and say whether the claims are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a record's key, a regular expression")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    chosen = parser.parse_args(list(arguments))
    prior = load_prior(chosen.model)
    return publish("peers", lambda: run(prior, chosen.only), outcome, draw)


if __name__ == "__main__":
    main(sys.argv[1:])
