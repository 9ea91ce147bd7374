"""A prior learned from undersampled scans: expectation maximisation over priors.

E: posterior draws of every slice under the present prior, with the slice's own mask, coil maps and
noise. M: the denoiser trained on these draws, from the weights of the round before; what a scan
measured of their k-space counts more than what they made up (`TrainingConfig.unmeasured`), which is
the present prior's own opinion. Rounds go on until lines of held-out people's scans, held out
themselves, are predicted no better: no image is ever known. Sources: Rozet et al. 2024, "Learning
Diffusion Priors from Observations by Expectation Maximization"; Aali et al. 2024, "Ambient
Diffusion Posterior Sampling".

Where no model is there to begin with, the first network learns from L1-wavelet images, and the next
ones from draws or, where a plan asks for it, from their means at first. Rozet et al. begin with
draws under a Gaussian. On heads these are noise for the most part (19.6 dB, where wavelets have
25.7), and so is what a network learns of them.

Everything done is kept in the folder of the run, each file whole or absent, and found again by a
run that goes on: a slice's draws, its predicted lines, the checkpoints of the training, models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models import DEFAULT_MODEL
from models.errors import ModelError
from models.install import package
from models.loading import build_prior, load_prior
from models.model_folder import MAX_WEIGHTS_BYTES, read_capped
from models.model_weights import parse_safetensors, read_model
from models.processes import Process
from models.train import AVERAGES, TrainingConfig, train
from models.train import Progress as Trained
from models.training_data import ImageFile
from recon.coarse import CoarseMethod
from recon.errors import ReconError, ScanError
from recon.prior import Prior, StationaryPrior
from recon.sampler import InverseProblem
from recon.scan import Scan
from recon.settings import Settings
from recon.slice_draws import (
    HeldOutLines,
    coarse_image,
    draw_images,
    predict_held_out,
    slice_problem,
)
from recon.spectrum import fit_spectrum
from service.conformal_measurement import choose_slices
from service.prior_samples import draw as draw_prior
from service.store.durable import replacing, write_whole
from service.training.archive_plan import ArchivePlan
from service.training.held_out_likelihood import Gain, Place, Predictions, gain
from service.training.memorised import Image, MemorySearch, training_images
from service.training.memorised import search as memories
from service.training.runs import beginning_of
from service.training.slice_work import Step, draws_of, each_slice, write_draws
from service.training.undersampled_scans import (
    LeftOut,
    Looking,
    ScanList,
    digest_of,
    list_scans,
    read_listed,
)

_LOWEST_SIGMA = 0.004
_SPECTRUM_SLICES = 24
_SPECTRUM_ROUNDS = 10
_PREDICTING_CHAINS = 4
_SEARCHED = 64
_SAMPLES = 8
_SAMPLE_EVALUATIONS = 60


@dataclass(frozen=True)
class Judged:
    """A round's prior, and how it predicts held-out lines."""

    round: int
    model: str
    predictions: Predictions
    gain: Gain | None
    """Over the best prior before it; None of the first."""


@dataclass(frozen=True)
class Learned:
    """The end of a run."""

    scans: ScanList
    rounds: tuple[Judged, ...]
    chosen: int
    """Number of the round whose prior predicts best."""
    compared: Judged | None
    """An installed prior on the same lines."""
    left_out: tuple[LeftOut, ...]
    """Scans and slices that could not be used, of the list and of all rounds."""


Target = Literal["coarse images", "means of draws", "draws"]
Images = NDArray[np.complex64]
Event = Looking | ScanList | Step | Trained | Judged | Learned


class ArchiveLearning:
    """A run and its folder, in which everything is that it has done so far.

    Raises ModelError where the folder is of another plan, or the model to begin with cannot be
    trained on.
    """

    def __init__(self, plan: ArchivePlan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.beginning = None if plan.start_from is None else beginning_of(plan.start_from)
        plan.out.mkdir(parents=True, exist_ok=True)
        _require_same(plan)

    def follow(self) -> Generator[Event, None, None]:
        """Do what is left, to the end. Raises ModelError, ScanError."""
        found = yield from self._listed()
        rounds: list[Judged] = []
        best, waited = 0, 0
        for number in range(self.plan.rounds + 1):
            yield from self._make(number, found)
            name, before = self.name(number), rounds[best].predictions if rounds else None
            folder = self.folder(number) / "held-out"
            step = Step(number, "predicting", 0, 0)
            predictions = yield from self._predict(self.prior(number), folder, step, found)
            better = None if before is None else gain(predictions, before)
            rounds.append(Judged(number, name, predictions, better))
            yield rounds[-1]
            if better is not None:
                best = number if better.mean > 0 else best
                waited = 0 if better.sure or self.target(number) != "draws" else waited + 1
                if waited == self.plan.patience:
                    break
        compared = yield from self._compare(found)
        left_out = (*found.left_out, *self._refused(found))
        yield Learned(found, tuple(rounds), best, compared, tuple(dict.fromkeys(left_out)))

    def folder(self, number: int) -> Path:
        """What is kept of a round."""
        return self.plan.out / "rounds" / f"{number:02d}"

    def name(self, number: int) -> str:
        """Of a round's prior; models lie in the folder `models` of the run."""
        if number == 0:
            return self.plan.start_from or "Gaussian"
        return f"{self.plan.name}-round-{number:02d}"

    def target(self, number: int) -> Target:
        """What a round's network learns from."""
        if self.beginning is not None or number > 1 + self.plan.rounds_of_means:
            return "draws"
        return "coarse images" if number == 1 else "means of draws"

    def prior(self, number: int) -> Prior:
        """The prior of a round that is done. Raises ModelError."""
        if number > 0:
            folder = self.plan.out / "models" / self.name(number)
            return build_prior(read_model(folder), self.device)
        if self.plan.start_from is not None:
            return load_prior(self.plan.start_from, self.device)
        return _Spectrum.model_validate_json(self._spectrum.read_bytes()).prior

    def images(self, number: int) -> dict[Path, tuple[str, ...]]:
        """Files of the draws that a round was trained on: whose slice each image is."""
        kept = json.loads((self.folder(number) / "images.json").read_text())
        return {self.folder(number) / "images" / name: tuple(told) for name, told in kept.items()}

    @property
    def _spectrum(self) -> Path:
        return self.plan.out / "spectrum.json"

    def _listed(self) -> Generator[Event, None, ScanList]:
        plan, seed = self.plan, self.plan.training.seed
        source, share, most = plan.from_undersampled, plan.hold_out, plan.slices_per_scan
        for event in list_scans(plan.out / "scans.json", source, share, most, seed):
            yield event
            if isinstance(event, ScanList):
                return event
        raise AssertionError

    def _make(self, number: int, found: ScanList) -> Iterator[Event]:
        """The prior of a round, unless it is there."""
        if number == 0:
            if self.plan.start_from is None and not self._spectrum.exists():
                yield from self._fit_spectrum(found)
        elif not (self.plan.out / "models" / self.name(number)).exists():
            if not (self.folder(number) / "images.json").exists():
                yield from self._draw(number, found)
            yield from self._train(number, found)

    def _fit_spectrum(self, found: ScanList) -> Iterator[Step]:
        """Expectation maximisation of a Gaussian prior, over a share of the slices."""
        places = [(scan, index) for scan in found.training for index in scan.slices]
        chosen = [places[k] for k in choose_slices(len(places), _SPECTRUM_SLICES)]
        problems: list[InverseProblem] = []
        refused: ReconError | None = None
        for done, (scan, index) in enumerate(chosen):
            yield Step(0, "spectrum", done, len(chosen) + _SPECTRUM_ROUNDS, scan.name)
            try:
                settings = self._settings(0, 1)
                problems.append(slice_problem(read_listed(scan), index, settings, self.device))
            except ReconError as error:
                refused = error  # the round that draws says it of every slice
        if not problems:
            raise ModelError("no-data", f"none of the slices can be calibrated: {refused}")
        longest = max(max(scan.rows, scan.columns) for scan in found.scans)
        fits = fit_spectrum(
            lambda: iter(problems), longest, _SPECTRUM_ROUNDS, self.plan.training.seed
        )
        for done, prior in enumerate(fits, start=len(chosen)):
            yield Step(0, "spectrum", done, len(chosen) + _SPECTRUM_ROUNDS)
            fitted = _Spectrum(radii=prior.radii, powers=prior.powers)
        write_whole(self._spectrum, fitted.model_dump_json().encode())

    def _draw(self, number: int, found: ScanList) -> Iterator[Step]:
        """The images of every slice that is learned from: `target` says which."""
        folder = self.folder(number) / "draws"
        step = Step(number, "coarse" if self.target(number) == "coarse images" else "drawing", 0, 0)
        yield from each_slice(found.training, folder, step, _keeping(self._images_of(number)))
        kept = write_draws(found.training, folder, self.folder(number) / "images")
        if not kept:
            raise ModelError(
                "no-data",
                f"no slice could be drawn from in round {number}; {folder} says why of each",
            )
        write_whole(self.folder(number) / "images.json", json.dumps(kept, indent=1).encode())
        for file in folder.glob("*.npz"):
            file.unlink()

    def _images_of(self, number: int) -> Callable[[Scan, int], Images]:
        """What gives a slice's images, (images, rows, columns), for a round."""
        settings, target = self._settings(number, self.plan.chains), self.target(number)
        if target == "coarse images":
            return partial(_coarse, settings, self.device)
        prior = self.prior(number - 1)

        def drawn(scan: Scan, index: int) -> Images:
            images = draw_images(scan, index, prior, settings, self.device)
            if target == "draws":
                return images
            return np.asarray(images.mean(axis=0, keepdims=True), np.complex64)

        return drawn

    def _train(self, number: int, found: ScanList) -> Iterator[Trained]:
        """The network of a round, from that of the round before, made into a model."""
        plan, run = self.plan, self.folder(number) / "training"
        initial, sha256 = self._weights(number - 1)
        changed: dict[str, object] = {"initial": sha256, "steps": plan.steps_of(number)}
        changed["seed"] = plan.training.seed + number
        if self.beginning is not None:
            changed["network"] = self.beginning.network
        elif number == 1:  # no prior's opinion is in these images
            changed["unmeasured"] = 1.0
        else:
            changed["learning_rate"] = plan.training.learning_rate / 2
        config = _fitting(plan.training, found).model_copy(update=changed)
        files = [ImageFile(file) for file in self.images(number)]
        yield from train(config, files, run, Process(0, 1, self.device), (), initial)
        package(
            run,
            plan.out / "models",
            self.name(number),
            training=self._told(number, found, config),
            licence=plan.licence,
            data_attributions=plan.attributions or (f"undersampled scans of {plan.name}",),
            lowest_sigma=_LOWEST_SIGMA,
            above=None if self.beginning is None else self.beginning.above,
        )

    def _weights(self, number: int) -> tuple[Mapping[str, Tensor] | None, str | None]:
        """Those that a round ended with, averaged, and their SHA-256."""
        if number == 0:
            beginning = self.beginning
            return (None, None) if beginning is None else (beginning.tensors, beginning.sha256)
        file = self.folder(number) / "training" / AVERAGES[0]
        content = read_capped(file, MAX_WEIGHTS_BYTES, "weights-size")
        return parse_safetensors(content, str(file)), hashlib.sha256(content).hexdigest()

    def _told(self, number: int, found: ScanList, config: TrainingConfig) -> str:
        """What a card says of a round."""
        training = found.training
        slices = sum(len(scan.slices) for scan in training)
        subjects = len({scan.subject for scan in training})
        start, target = self.plan.start_from, self.target(number)
        began = f"the model {start}" if start else "coarse images of the same scans"
        under = f"{target} from the posterior, under the prior of round {number - 1},"
        return (
            f"Expectation maximisation over priors, round {number}, from {began}. No image was "
            f"known: it learned from {target if target == 'coarse images' else under} of "
            f"{slices} undersampled slices of {len(training)} scans of {subjects} subjects "
            f"(SHA-256 of the list {digest_of(training)[:16]}); {len(found.held_out)} scans of "
            f"others were held out. {config.steps} steps of batch {config.batch}, patches of "
            f"{config.patch_sizes[0]} pixels. Not searched by this card for images that the "
            "weights remember: the report of the run is."
        )

    def _predict(
        self, prior: Prior, folder: Path, step: Step, found: ScanList
    ) -> Generator[Step, None, dict[Place, HeldOutLines]]:
        """Lines of held-out people's scans; the same lines and random numbers for every prior."""
        settings = self._settings(0, _PREDICTING_CHAINS)

        def predict(scan: Scan, index: int, file: Path) -> None:
            lines = predict_held_out(scan, index, prior, settings, self.device)
            if lines is None:
                raise ScanError("too-few-lines", "too few lines outside the centre to hold out")
            write_whole(file.with_suffix(".json"), json.dumps({"lines": asdict(lines)}).encode())

        yield from each_slice(found.held_out, folder, step, predict)
        predictions = {}
        for scan in found.held_out:
            for index in scan.slices:
                kept = json.loads((folder / f"{scan.key(index)}.json").read_text())
                if "lines" in kept:
                    place = Place(scan.subject, scan.sha256, index)
                    predictions[place] = HeldOutLines(**kept["lines"])
        if not predictions:
            raise ModelError(
                "nothing-held-out",
                f"lines of no held-out slice could be predicted; {folder} says why of each. Scans "
                "need six lines outside their centre",
            )
        return predictions

    def _compare(self, found: ScanList) -> Generator[Event, None, Judged | None]:
        """The installed prior that a site would have without its own."""
        name = self.plan.compare_with or DEFAULT_MODEL
        if name == self.plan.start_from:
            return None
        step = Step(0, "comparing", 0, 0, name)
        folder = self.plan.out / "compared" / name
        prior = load_prior(name, self.device)
        predictions = yield from self._predict(prior, folder, step, found)
        return Judged(0, name, predictions, None)

    def search(self, number: int, found: ScanList) -> Generator[Step, None, MemorySearch]:
        """Whether the prior of a round remembers whom it learned from."""
        prior, seed = self.prior(number), self.plan.training.seed
        folder = self.plan.out / "searched" / self.name(number)
        settings = self._settings(number, 1)
        draw = _keeping(lambda scan, k: draw_images(scan, k, prior, settings, self.device))
        step = Step(number, "searching", 0, 0, "held-out scans")
        chosen = [scan.model_copy(update={"slices": scan.slices[:1]}) for scan in found.held_out]
        yield from each_slice(chosen[:_SEARCHED], folder, step, draw)
        held_out = []
        for subject in sorted({scan.subject for scan in chosen}):
            held_out += [drawn.images[0] for drawn in draws_of(chosen, subject, folder)]
        longest = max(max(scan.rows, scan.columns) for scan in found.training)
        drawing = draw_prior(prior, _SAMPLES, longest, _SAMPLE_EVALUATIONS, seed, self.device)
        samples: list[Image] = []
        for share, images in drawing:
            samples = list(images)
            yield replace(step, done=round(100 * share), of=100, detail="images of the prior")
        return memories(samples, held_out, training_images(self.images(number)))

    def _refused(self, found: ScanList) -> Iterator[LeftOut]:
        """Slices that some round could not use."""
        names = {scan.key(k): (scan.name, k) for scan in found.scans for k in scan.slices}
        for file in sorted(self.plan.out.glob("rounds/*/*/*.json")):
            kept = json.loads(file.read_text())
            if "code" in kept and file.stem in names:
                name, index = names[file.stem]
                yield LeftOut(name=name, slice=index, **kept)

    def _settings(self, number: int, chains: int) -> Settings:
        seed = self.plan.training.seed + number
        return Settings(
            self.plan.preset, chains, seed, fit_noise=False, self_check=False, slice_coherence=0
        )


def _coarse(settings: Settings, device: torch.device, scan: Scan, index: int) -> Images:
    """(1, rows, columns): of L1-wavelets where there is a grid for them, which show less noise."""
    on_grid = scan.trajectory is None
    method = CoarseMethod.L1_WAVELET if on_grid else CoarseMethod.CG_SENSE
    return coarse_image(scan, index, replace(settings, coarse=method), device)[None]


def _keeping(images_of: Callable[[Scan, int], Images]) -> Callable[[Scan, int, Path], None]:
    """What keeps the images of a slice, for `each_slice`."""

    def keep(scan: Scan, index: int, file: Path) -> None:
        images = images_of(scan, index)
        if not np.isfinite(images).all():
            raise ScanError("not-finite", "draws are not finite")
        with replacing(file.with_suffix(".npz")) as (handle, _):
            np.savez(handle, images=images, measured=scan.sampled)

    return keep


class _Spectrum(BaseModel):
    """The Gaussian, which every round is to be better than, as it is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    radii: tuple[float, ...]
    powers: tuple[float, ...]

    @property
    def prior(self) -> StationaryPrior:
        return StationaryPrior(self.radii, self.powers)


def _fitting(config: TrainingConfig, found: ScanList) -> TrainingConfig:
    """With patches no larger than the images, whose sides the network may fill up a little."""
    longest = max(max(scan.rows, scan.columns) for scan in found.scans)
    side = -(-longest // 16) * 16
    sizes = tuple(min(size, side) for size in config.patch_sizes)
    return config.model_copy(update={"patch_sizes": sizes})


_LAYOUT = 3  # of what a run keeps
_MAY_CHANGE = {"out", "rounds", "patience", "licence", "attributions", "compare_with"}


def _require_same(plan: ArchivePlan) -> None:
    """Write the plan beside the run, or compare it with the one that is there."""
    record = plan.out / "plan.json"
    if record.exists():
        earlier = json.loads(record.read_bytes())
        if earlier.pop("layout", None) != _LAYOUT:
            text = f"{plan.out} was begun by another version of this program; use another folder"
            raise ModelError("other-version", text)
        before = ArchivePlan.model_validate(earlier)
        if before.model_dump(exclude=_MAY_CHANGE) != plan.model_dump(exclude=_MAY_CHANGE):
            raise ModelError(
                "other-run",
                f"{plan.out} holds a run with other choices; use another folder, or the same "
                "choices to go on with it",
            )
    kept = json.dumps({"layout": _LAYOUT, **plan.model_dump(mode="json")}, indent=1)
    write_whole(record, kept.encode() + b"\n")
