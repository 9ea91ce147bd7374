"""Held-out scans undersampled, reconstructed and compared with what they were: for `calibrate`.

Images are made into scans by simulated receivers; magnitude images get a smooth random phase first,
as in training. Every comparison is kept on the disk, so that a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from models.augment import Augmentation, with_phases
from models.conformal_factors import ConformalFactor, HeldShares
from models.registry import read_config, user_folder
from models.training_data import ImageFile, SliceSet
from recon.choices import PatternName, PresetName
from recon.conformal import (
    LEVEL,
    Comparison,
    compare,
    conformal_factor,
    joined,
    left_out_factors,
)
from recon.errors import ScanError
from recon.io.files import read_scan
from recon.phantom import receive
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.reference import Combination, reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

UnitName = Literal["scan", "slice"]

COILS = 8
MOST_UNDERSAMPLED = 1.5
"""Largest acceleration of a scan that may pass for fully sampled (partial Fourier is common)."""


@dataclass(frozen=True)
class Protocol:
    """How held-out scans are undersampled and reconstructed."""

    model: str
    preset: PresetName
    samples: int | None
    acceleration: float
    pattern: PatternName = "equispaced"
    center_fraction: float = 0.08
    seed: int = 0
    noise_std: float | None = None
    """Of simulated receivers, per real component, where the 99th percentile of an image is 1;
    None for measured k-space."""

    @property
    def settings(self) -> Settings:
        """The pipeline's settings: the defaults but for these, without a self-check."""
        return Settings(self.preset, self.samples, self.seed, self_check=False)


@dataclass(frozen=True)
class Compared:
    """What became of a slice under one protocol."""

    file: str
    digest: str
    slice: int
    protocol: Protocol
    comparison: Comparison
    acceleration: float
    """Matrix size over samples, as it came out."""


@dataclass(frozen=True)
class Working:
    """How far the reconstruction at hand is."""

    file: str
    slice: int
    protocol: Protocol
    fraction: float


def find_files(data: Sequence[Path]) -> list[Path]:
    """The HDF5 files among `data` and in its folders, sorted. Raises ScanError."""
    found: list[Path] = []
    for path in data:
        if path.is_dir():
            found += [*path.glob("*.h5"), *path.glob("*.hdf5")]
        else:
            found.append(path)
    if not found:
        raise ScanError("no-scans", "there is no .h5 file here; name files or folders of them")
    return sorted(set(found))


def choose_slices(count: int, most: int | None) -> list[int]:
    """At most so many of `count` slices, spread evenly, away from both ends; all for None."""
    if most is None or most >= count:
        return list(range(count))
    return [int((k + 0.5) * count / most) for k in range(most)]


@dataclass(frozen=True)
class FullFile:
    """Fully sampled k-space of a file, or images of one that simulated receivers see."""

    name: str
    digest: str
    scan: Scan | None = None
    images: NDArray[Any] | None = None
    """(slices, rows, columns), magnitude or complex."""

    @classmethod
    def of_scan(cls, path: Path) -> FullFile:
        """Of a file that `read_scan` reads. Raises ScanError, also where samples are missing."""
        scan = read_scan(path)
        if scan.trajectory is not None:
            raise ScanError(
                "not-cartesian", f"{path.name} is not Cartesian; factors are for Cartesian scans"
            )
        if scan.acceleration > MOST_UNDERSAMPLED:
            raise ScanError(
                "not-fully-sampled",
                f"{path.name} is {scan.acceleration:.2g} times undersampled itself; calibration "
                "needs scans that are known in full",
            )
        return cls(path.name, scan.sha256, scan=scan)

    @classmethod
    def of_images(cls, path: Path) -> FullFile:
        """A file of images as `train` takes it; your own, as there. Raises ModelError."""
        images = SliceSet([ImageFile(path)]).images[0]
        return cls(path.name, hashlib.sha256(images.tobytes()).hexdigest(), images=images)

    def __len__(self) -> int:
        if self.scan is not None:
            return len(self.scan.kspace)
        return 0 if self.images is None else len(self.images)

    def slice(self, index: int, noise_std: float | None) -> Scan:
        """One slice as a scan of its own; images need the noise of their receivers.

        Raises ScanError for an empty image.
        """
        if self.scan is None:
            assert self.images is not None
            assert noise_std is not None
            image = scaled_image(self.images[index], f"slice {index} of {self.name}")
            complex_image = image if np.iscomplexobj(image) else with_phase(image, index)
            return receive(complex_image[None], COILS, noise_std, index)
        maps = self.scan.coil_maps
        return replace(
            self.scan,
            kspace=self.scan.kspace[index : index + 1],
            coil_maps=None if maps is None else maps[index : index + 1],
        )


def scaled_image(image: NDArray[Any], name: str) -> NDArray[Any]:
    """float32 or complex64 (rows, columns) with the 99th percentile of its magnitude at 1."""
    scale = float(np.percentile(np.abs(image), 99))
    if scale <= 0:
        raise ScanError("empty-slice", f"{name} is empty; leave it out")
    kind = np.complex64 if np.iscomplexobj(image) else np.float32
    return np.asarray(image.astype(kind) / np.float32(scale), kind)


_PHASES = Augmentation(tissue_phase=0.25, asymmetry=0)
"""As of most scans, where a hundredth of the energy has a phase that is not smooth; training has
stronger ones too. Uneven k-space would change magnitudes, which are the truth here."""


def with_phase(magnitude: NDArray[np.float32], seed: int) -> NDArray[np.complex64]:
    """A magnitude image with random phases, smooth ones and those of tissues."""
    like = torch.from_numpy(magnitude)[None]
    generator = torch.Generator().manual_seed(seed)
    return with_phases(like.to(torch.complex64), like, _PHASES, generator)[0].numpy()


class ComparisonFolder:
    """Comparisons on the disk, by all they depend on. A damaged one is made again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> tuple[Comparison, float] | None:
        """What is kept under `key`: comparison and acceleration."""
        if self._folder is None or not (self._folder / f"{key}.npz").is_file():
            return None
        try:
            with (
                (self._folder / f"{key}.npz").open("rb") as file,
                np.load(file, allow_pickle=False) as kept,
            ):
                names = Comparison.__dataclass_fields__
                return Comparison(**{n: kept[n] for n in names}), float(kept["acceleration"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def put(self, key: str, comparison: Comparison, acceleration: float) -> None:
        """Keep it, whole or not at all."""
        if self._folder is None:
            return
        aside = self._folder / f".{key}.{os.getpid()}.part"
        with aside.open("wb") as file:
            np.savez_compressed(file, acceleration=acceleration, **asdict(comparison))
        aside.replace(self._folder / f"{key}.npz")


def default_folder() -> Path:
    """Where comparisons are kept unless told otherwise: beside the user's models."""
    return user_folder().parent / "comparisons"


def compare_held_out(
    full: FullFile,
    slices: Sequence[int],
    protocols: Sequence[Protocol],
    prior: Prior,
    kept: ComparisonFolder,
    device: torch.device,
) -> Iterator[Working | Compared]:
    """The slices of a file under every protocol, as they are made; `prior` is the protocols'.

    Raises ScanError, CalibrationError, ConvergenceError, ModelError.
    """
    for index in slices:
        for protocol in protocols:
            key = _key(full, index, protocol)
            found = kept.get(key)
            if found is None:
                found = yield from _compare(full, index, protocol, prior, device)
                kept.put(key, *found)
            yield Compared(full.name, full.digest, index, protocol, *found)


def _compare(
    full: FullFile, index: int, protocol: Protocol, prior: Prior, device: torch.device
) -> Generator[Working, None, tuple[Comparison, float]]:
    scan = full.slice(index, protocol.noise_std)
    shape = (scan.mask.shape[0], scan.mask.shape[1])
    mask = undersampling_mask(
        shape, protocol.pattern, protocol.acceleration, protocol.center_fraction, protocol.seed
    )
    seen = undersample(scan, mask)
    posterior = None
    for event in reconstruct(seen, prior, protocol.settings, [0], device):
        if isinstance(event, SlicePosterior):
            posterior = event
        else:
            yield Working(full.name, index, protocol, getattr(event, "fraction", 0.0))
    assert posterior is not None
    return compare_with_full(posterior, seen, scan), seen.acceleration


def compare_with_full(posterior: SlicePosterior, seen: Scan, full: Scan) -> Comparison:
    """A slice's posterior, of what was `seen` with the default calibration, beside the full scan.

    Both are of one slice.
    """
    reference = reference_of(full, seen.mask, Combination.SENSE)
    unseen = 1 - np.count_nonzero(seen.mask) / np.count_nonzero(full.mask)
    return compare(posterior, reference.images[0], unseen)


def _key(full: FullFile, index: int, protocol: Protocol) -> str:
    model = read_config(protocol.model)
    made_of = {
        "file": full.digest,
        "slice": index,
        "weights": model.weights_sha256,
        "power": model.power,
        "software": version("mri-posterior"),
        "evaluations": protocol.settings.resolved.evaluations,
        **asdict(protocol),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Share:
    """A mean over units, and its standard error over them."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Share:
        """NaN for the error of a single value."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), spread / math.sqrt(len(values)))

    def __str__(self) -> str:
        return f"{self.mean:.1%} ± {self.error:.1%}"


@dataclass(frozen=True)
class Summary:
    """What one protocol came to. Shares are by level, 0.5 and 0.9."""

    protocol: Protocol
    acceleration: float
    unit: UnitName
    units: int
    confidence: float
    factor: float
    as_read_off: dict[float, Share]
    before: dict[float, Share]
    """Allowing for the noise of the true values."""
    after: dict[float, Share]
    """The same, of each unit with the factor by all others."""
    standardized_error: Share


def units_of(compared: Sequence[Compared], unit: UnitName) -> list[Comparison]:
    """What is counted as exchangeable: each slice, or all slices of each file together."""
    if unit == "slice":
        return [one.comparison for one in compared]
    by_file: dict[str, list[Comparison]] = {}
    for one in compared:
        by_file.setdefault(one.digest, []).append(one.comparison)
    return [joined(slices) for slices in by_file.values()]


def summarise(compared: Sequence[Compared], unit: UnitName, confidence: float) -> Summary:
    """The figures of what was compared under one protocol. Raises ScanError for too few units."""
    units = units_of(compared, unit)
    scores = [each.score for each in units]
    factor = conformal_factor(scores, confidence)
    pairs = list(zip(units, left_out_factors(scores, confidence), strict=True))

    def shares(values: Callable[[float], list[float]]) -> dict[float, Share]:
        return {level: Share.of(values(level)) for level in (0.5, LEVEL)}

    return Summary(
        protocol=compared[0].protocol,
        acceleration=float(np.mean([one.acceleration for one in compared])),
        unit=unit,
        units=len(units),
        confidence=confidence,
        factor=factor,
        as_read_off=shares(lambda level: [each.coverage(level, noisy=False) for each in units]),
        before=shares(lambda level: [each.coverage(level) for each in units]),
        after=shares(lambda level: [each.coverage(level, by_others) for each, by_others in pairs]),
        standardized_error=Share.of([each.standardized_error() for each in units]),
    )


def entry_of(summary: Summary, scans: int, about: str) -> ConformalFactor:
    """What is written beside the weights; `about` has passed `check_description`."""
    protocol = summary.protocol

    def shares(level: float) -> HeldShares:
        found = (summary.as_read_off, summary.before, summary.after)
        names = ("as_read_off", "before", "after")
        return HeldShares(**{n: round(f[level].mean, 4) for n, f in zip(names, found, strict=True)})

    return ConformalFactor(
        preset=protocol.preset,
        samples=protocol.settings.resolved.chains,
        evaluations=protocol.settings.resolved.evaluations,
        acceleration=round(summary.acceleration, 4),
        pattern=protocol.pattern,
        center_fraction=protocol.center_fraction,
        # Rounded up: a factor below the promised one would not keep the promise.
        factor=math.ceil(1e4 * summary.factor) / 1e4,
        confidence=summary.confidence,
        unit=summary.unit,
        units=summary.units,
        scans=scans,
        data=about,
        date=datetime.now(UTC).date(),
        software_version=version("mri-posterior"),
        standardized_error=round(summary.standardized_error.mean, 4),
        coverage_50=shares(0.5),
        coverage_90=shares(LEVEL),
    )
