"""The alarm: right heads, and scans of which something is not as it was assumed.

    python -m benchmarks alarm

Right heads are held-out images received by simulated coils, and real scans of heads; of both what
is wrong is made, one thing at a time, and phantoms are scanned in place of patients. A simulated
head is right where the result errs by no more than `ERRS` times what it says: with phases that the
prior does not follow it errs by more, and a doubt is deserved. Everything
runs through the pipeline as `reconstruct --preset fast` does. Pixels are made larger (the centre of
k-space), which makes the whole a matter of minutes. Evidence is kept in
benchmarks/results/alarm-evidence.json as it comes, by case, weights and power: an experiment that
was stopped goes on, and verdicts are given anew from what is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.record import RESULTS, Check, Outcome, Row, publish
from models.loading import load_prior
from models.reduction import resized_complex
from models.registry import read_config
from recon.alarm import TypicalScans, verdict_of
from recon.calibration import calibrate
from recon.diagnostics import object_mask
from recon.errors import ReconError
from recon.io.conventions import require_centred
from recon.io.files import read_scan
from recon.kspace_centre import central, images_of
from recon.phantom import receive
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.receivers import noise_model
from recon.scan import Geometry, Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.verdict import Cause, Evidence, Trust
from service.conformal_measurement import compare_with_full, scaled_image, with_phase
from service.runs import DEFAULT_MODEL
from service.verdicts import typical_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
KEPT = RESULTS / "alarm-evidence.json"
SIDE = 96
"""Longest side of an image, in pixels."""
HEADS = tuple(("open_ms", k) for k in (148, 155, 162, 169, 187, 194, 201, 208)) + tuple(
    ("cheng", k) for k in (36, 43, 52, 60)
)
"""Held-out slices of validation images. Patient 19 of `open_ms` and the first half of `cheng` are
in the model's table of typical scans; of these patients no slice is."""
REAL = (
    "brain_t1_8ch",
    "brain_wrap_8ch",
    "head_t1_sagittal_1ch",
)
"""With a noise floor; scans that the vendor filtered are no measure of anything."""
PHANTOMS = (
    "phantom_16ch_cimax",
    "gre_bottle_4ch_trio",
    "gre_phantom_2ch_skyra",
    "gre_phantom_1ch_prisma",
    "gre_phantom_1ch_7t",
)
PHASES = 6
"""Simulated phases, receivers and lines of every head; only the first of what is wrong."""
ERRS = 1.3
"""Root mean square of error over predicted standard deviation up to which a result is right."""
TOO_SURE = "right head, error beyond what was said"
WRONG = 0.9
"""Share of the wrong that is to be found,"""
ALARMS = 0.05
"""at this share of false alarms."""

Make = Callable[[], Scan]


@dataclass(frozen=True)
class Case:
    """One scan, and what is wrong with it."""

    name: str
    kind: str
    """`right` or what is wrong."""
    scan: Make
    full: Make | None = None
    """The same fully sampled, where the result is compared with it."""


@dataclass(frozen=True)
class Judged:
    """What became of a case."""

    case: str
    kind: str
    evidence: Evidence | None
    refusal: str
    """Code of the error that no reconstruction came of; empty where one did."""
    error: float = math.nan
    """Root mean square of the mean's error over its standard deviation, where it was compared."""


def thinned(full: Scan, number: int) -> Scan:
    """Undersampled by lines, 16 of them central, another pattern for every number."""
    shape = (full.mask.shape[0], full.mask.shape[1])
    rate = (2.5, 3.0, 4.0)[number % 3]
    return undersample(full, undersampling_mask(shape, "equispaced", rate, 16 / shape[1], number))


def head(file: str, index: int) -> NDArray[np.float32]:
    """A validation slice cut to its object, no side longer than `SIDE`."""
    with h5py.File(DATA / "validation" / f"{file}.h5") as handle:
        image = scaled_image(handle["images"][index], file)
    inside = image > 0.1
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    image = image[max(rows[0] - 6, 0) : rows[-1] + 7, max(columns[0] - 6, 0) : columns[-1] + 7]
    shrink = SIDE / max(image.shape)
    shape = tuple(max(64, 2 * round(size * shrink / 2)) for size in image.shape)
    small = resized_complex(torch.from_numpy(image.astype(np.complex64)), (shape[0], shape[1]))
    return np.asarray(scaled_image(small.abs().numpy(), file), np.float32)


def inverted(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bright where it was dark, inside the head."""
    inside = object_mask(image)
    return np.where(inside, np.clip(1.05 - image, 0, None), image).astype(np.float32)


def received(image: NDArray[np.float32], number: int) -> Scan:
    """By four or eight simulated coils with the noise of a good or a middling scan."""
    coils, noise = (8, 4)[number % 2], (0.01, 0.02, 0.03)[number % 3]
    return receive(with_phase(image, number)[None], coils, noise, number)


def measured(name: str, side: int = SIDE) -> Scan:
    """A real scan with larger pixels: the centre of its k-space."""
    scan = read_scan(DATA / "scans" / f"{name}.h5")
    shrink = min(1.0, side / max(scan.mask.shape))
    shape = tuple(max(64, 2 * round(size * shrink / 2)) for size in scan.mask.shape)
    region = (min(shape[0], scan.mask.shape[0]), min(shape[1], scan.mask.shape[1]))
    kspace = np.ascontiguousarray(central(scan.kspace, region))
    return replace(scan, kspace=kspace, mask=np.ones(region, np.bool_), geometry=Geometry())


def moved(full: Scan, number: int) -> Scan:
    """Half of the lines of somebody who has turned by five degrees and shifted by two voxels."""
    images = images_of(full.kspace)
    turned = [
        ndimage.shift(
            ndimage.rotate(part, 5, axes=(-1, -2), reshape=False, order=1), (0, 0, 2, 1), order=1
        )
        for part in (images.real, images.imag)
    ]
    shifted = np.fft.ifftshift(turned[0] + 1j * turned[1], axes=(-2, -1))
    later = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
    late = np.random.default_rng(number).random(full.kspace.shape[-1]) < 0.5
    return replace(full, kspace=np.where(late, later, full.kspace).astype(np.complex64))


def with_maps(full: Scan, seen: Scan, steps: int) -> Scan:
    """The scan with maps of the full one handed in, rolled by so many voxels along both axes."""
    model, _ = noise_model(full)
    maps = np.einsum("cv,vrk->crk", model.unwhitening, calibrate(full, 0, model).coil_maps)
    return replace(seen, coil_maps=np.roll(maps, (steps, steps), (1, 2))[None].astype(np.complex64))


def with_noise(scan: Scan, factor: float) -> Scan:
    """With a noise scan of another level than the noise in k-space."""
    assert scan.noise_samples is not None
    return replace(scan, noise_samples=(factor * scan.noise_samples).astype(np.complex64))


def off_centre(full: Scan, axis: int) -> Scan:
    """The zero frequency at the corner along an axis."""
    return replace(full, kspace=np.fft.fftshift(full.kspace, axes=axis))


def noise_alone(scan: Scan, number: int) -> Scan:
    """Nothing but the receivers' noise."""
    real, imaginary = np.random.default_rng(number).standard_normal((2, *scan.kspace.shape))
    level = float(scan.attributes["noise_std"])
    kspace = (level * (real + 1j * imaginary) * scan.mask).astype(np.complex64)
    return replace(scan, kspace=kspace)


def with_dead_coil(scan: Scan, coil: int) -> Scan:
    """One coil gives nothing."""
    kspace = scan.kspace.copy()
    kspace[:, coil] = 0
    return replace(scan, kspace=kspace)


def with_shouting_coil(scan: Scan, coil: int) -> Scan:
    """One coil in forty times its noise, which its noise scan knows nothing of."""
    kspace = scan.kspace.copy()
    real, imaginary = np.random.default_rng(coil).standard_normal((2, *scan.mask.shape))
    level = 40 * float(scan.attributes["noise_std"])
    kspace[:, coil] += (level * (real + 1j * imaginary) * scan.mask).astype(np.complex64)
    return replace(scan, kspace=kspace)


def changed(change: Callable[..., Scan], make: Make, *arguments: float) -> Make:
    """A maker of the scan that `change` makes of another one's."""
    return lambda: change(make(), *arguments)


def cases() -> Iterator[Case]:
    """All of them; what needs no reconstruction is refused on reading."""
    for number, (file, index) in enumerate(HEADS):
        for again in range(number + len(HEADS), PHASES * len(HEADS), len(HEADS)):
            other: Make = partial(_of_head, file, index, again)
            name = f"right, {file} {index}, {again}"
            yield Case(name, "right", changed(thinned, other, again), other)
        full: Make = partial(_of_head, file, index, number)
        seen = changed(thinned, full, number)
        yield Case(f"right, {file} {index}", "right", seen, full)
        made: dict[str, Make] = {}
        if number % 2 == 0:
            odd: Make = partial(_of_inverted, file, index, number)
            made["inverted contrast"] = changed(thinned, odd, number)
        if number % 3 == 0:
            made["motion"] = changed(thinned, changed(moved, full, number), number)
            made["maps shifted"] = partial(_with_shifted_maps, full, seen)
            made["pure noise"] = changed(noise_alone, seen, number)
            half = changed(off_centre, full, -1 - number % 2)
            made["centre off by half"] = changed(thinned, half, number)
        if number % 3 == 1:
            made["noise off by two"] = changed(with_noise, seen, (0.5, 2.0)[number % 2])
            made["dead coil"] = changed(with_dead_coil, seen, number % 4)
            made["shouting coil"] = changed(with_shouting_coil, seen, number % 4)
        for kind, scan in made.items():
            yield Case(f"{kind}, {file} {index}", kind, scan)
    for number, name in enumerate(REAL):
        whole: Make = partial(measured, name)
        yield Case(f"right, {name}", "right", changed(thinned, whole, number))
        if number < 2:
            shaken = changed(thinned, changed(moved, whole, number), number)
            yield Case(f"motion, {name}", "motion", shaken)
    for number, name in enumerate(PHANTOMS):
        whole = partial(measured, name)
        yield Case(f"phantom, {name}", "phantom", changed(thinned, whole, number))


def _of_head(file: str, index: int, number: int) -> Scan:
    return received(head(file, index), number)


def _of_inverted(file: str, index: int, number: int) -> Scan:
    return received(inverted(head(file, index)), number)


def _with_shifted_maps(full: Make, seen: Make) -> Scan:
    return with_maps(full(), seen(), 2)


def examine(case: Case, prior: Prior) -> Judged:
    """Run a case."""
    try:
        scan = case.scan()
        require_centred(scan.kspace, scan.mask, "")
        for event in reconstruct(scan, prior, Settings("fast"), [0]):
            if isinstance(event, SlicePosterior):
                error = math.nan
                if case.full is not None:
                    error = compare_with_full(event, scan, case.full()).standardized_error()
                return Judged(case.name, case.kind, event.evidence, "", error)
    except ReconError as error:
        return Judged(case.name, case.kind, None, error.code)
    raise RuntimeError("a reconstruction ended without a posterior")


def experiment() -> list[Judged]:
    """All cases, those that are kept and those that are not yet."""
    model = read_config(DEFAULT_MODEL)
    asked = {"weights_sha256": model.weights_sha256, "power": model.power}
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    if any(kept.get(key) != value for key, value in asked.items()):
        kept = {**asked, "cases": {}}
    prior = load_prior(DEFAULT_MODEL)
    found = []
    for case in cases():
        if case.name not in kept["cases"]:
            made = examine(case, prior)
            told = None if made.evidence is None else asdict(made.evidence)
            kept["cases"][case.name] = {
                "evidence": told,
                "refusal": made.refusal,
                "error": None if math.isnan(made.error) else made.error,
            }
            RESULTS.mkdir(parents=True, exist_ok=True)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{case.name}: {made.refusal or told}", flush=True)
        one = kept["cases"][case.name]
        evidence = one["evidence"]
        if evidence is not None:
            evidence = Evidence(**evidence | {"surprise": tuple(evidence["surprise"])})
        error = math.nan if one["error"] is None else one["error"]
        kind = TOO_SURE if error > ERRS else case.kind
        found.append(Judged(case.name, kind, evidence, one["refusal"], error))
    return found


def alarmed(judged: Judged, typical: TypicalScans | None) -> bool:
    """Whether the case is not trusted."""
    if judged.evidence is None:
        return True
    return verdict_of(judged.evidence, typical).trust is not Trust.TRUSTED


def chance(judged: Judged, typical: TypicalScans) -> float:
    """The prior's part as one p-value, for the curve; 0 for what the scan itself shows."""
    evidence = judged.evidence
    if evidence is None:
        return 0.0
    found = verdict_of(evidence, typical)
    if found.cause not in (None, Cause.PRIOR):
        return 0.0
    return found.p_value if math.isfinite(found.p_value) else 1.0


def outcome(found: Sequence[Judged]) -> Outcome:
    """Shares by kind, and the curve's points."""
    typical = typical_of(DEFAULT_MODEL)
    kinds = sorted({one.kind for one in found}, key=lambda kind: (kind != "right", kind))
    rows: list[Row] = []
    for kind in kinds:
        group = [one for one in found if one.kind == kind]
        count = sum(alarmed(one, typical) for one in group)
        rows.append({"kind": kind, "cases": len(group), "not trusted": count})
    wrong = [one for one in found if one.kind != "right"]
    right = [one for one in found if one.kind == "right"]
    hits = sum(alarmed(one, typical) for one in wrong) / len(wrong)
    false = sum(alarmed(one, typical) for one in right) / len(right)
    checks = (
        Check("share of the wrong that is found", hits, 1.0, 1 - WRONG),
        Check("false alarms", false, 0.0, ALARMS),
    )
    return Outcome(
        checks, tuple(rows), f"{len(right)} right and {len(wrong)} wrong cases, one each"
    )


def draw(found: Sequence[Judged]) -> Figure:
    """The share found against false alarms, for every level of the prior's tests."""
    typical = typical_of(DEFAULT_MODEL)
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    if typical is not None:
        right = np.array([chance(one, typical) for one in found if one.kind == "right"])
        wrong = np.array([chance(one, typical) for one in found if one.kind != "right"])
        levels = np.concatenate([[-1.0], np.sort(np.concatenate([right, wrong])), [1.0]])
        axes.step(
            [(right <= level).mean() for level in levels],
            [(wrong <= level).mean() for level in levels],
            where="post",
        )
    axes.axvline(ALARMS, color="grey", lw=0.8)
    axes.axhline(WRONG, color="grey", lw=0.8)
    axes.set(xlabel="false alarms", ylabel="wrong scans found", xlim=(-0.02, 1), ylim=(0, 1.02))
    return figure


def main() -> bool:
    """Run, judge and write."""
    return publish("alarm", experiment, outcome, draw)
