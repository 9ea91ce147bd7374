"""The slices of listed scans, one after the other: what was done of each is kept, whole or not.

A slice that cannot be used leaves the reason in place of its result. So a run that was killed goes
on behind the last slice, and a broken scan is met once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.errors import ReconError
from recon.scan import Scan
from service.images.files import write_images
from service.store.durable import write_whole
from service.training.undersampled_scans import ListedScan, read_listed

Stage = Literal["looking", "spectrum", "coarse", "drawing", "predicting", "comparing", "searching"]


@dataclass(frozen=True)
class Step:
    """How far a stage of a round is; round 0 is the prior that the run begins with."""

    round: int
    stage: Stage
    done: int
    of: int
    detail: str = ""


def each_slice(
    scans: Sequence[ListedScan],
    folder: Path,
    step: Step,
    work: Callable[[Scan, int, Path], None],
) -> Iterator[Step]:
    """Call `work` for every slice of which `folder` has nothing; keep what it is refused with.

    It is given the scan, the slice's number and a file without suffix, beside which it writes
    `.npz` or `.json`.
    """
    of = sum(len(scan.slices) for scan in scans)
    done = 0
    for scan in scans:
        files = {index: folder / scan.key(index) for index in scan.slices}
        missing = {index: file for index, file in files.items() if not _there(file)}
        done += len(files) - len(missing)
        whole: Scan | None = None
        for index, file in missing.items():
            yield replace(step, done=done, of=of, detail=f"{scan.name}, slice {index}")
            try:
                whole = whole or read_listed(scan)
                work(whole, index, file)
            except ReconError as error:
                told = {"code": error.code, "reason": error.message}
                write_whole(file.with_suffix(".json"), json.dumps(told).encode())
            done += 1
    yield replace(step, done=of, of=of)


class Drawn(NamedTuple):
    """Images of one shape, to be learned from."""

    name: str
    images: NDArray[np.complex64]
    """(images, rows, columns)."""
    measured: NDArray[np.bool_]
    """The same: which samples of their k-space the scans measured."""
    slices: list[str]
    """Which one each is of."""


def write_draws(scans: Sequence[ListedScan], folder: Path, out: Path) -> dict[str, list[str]]:
    """Write all draws to image files in `out`; their names, and which slice each image is of."""
    out.mkdir(exist_ok=True)
    kept = {}
    for subject in sorted({scan.subject for scan in scans}):
        for drawn in draws_of(scans, subject, folder):
            write_images(out / drawn.name, drawn.images, subject, measured=drawn.measured)
            kept[drawn.name] = drawn.slices
    return kept


def _there(file: Path) -> bool:
    return any(file.with_suffix(suffix).exists() for suffix in (".npz", ".json"))


def draws_of(scans: Sequence[ListedScan], subject: str, folder: Path) -> Iterator[Drawn]:
    """Draws of a subject as image files, each of one shape."""
    own = [scan for scan in scans if scan.subject == subject]
    for shape in sorted({(scan.rows, scan.columns) for scan in own}):
        images, measured, told = [], [], []
        for scan in own:
            for index in scan.slices if (scan.rows, scan.columns) == shape else ():
                file = folder / f"{scan.key(index)}.npz"
                if file.exists():
                    with np.load(file, allow_pickle=False) as kept:
                        images.append(kept["images"])
                        shown = np.broadcast_to(kept["measured"], images[-1].shape)
                    measured.append(shown)
                    told += [f"{scan.name}, slice {index}"] * len(images[-1])
        if images:
            name = f"{subject}-{shape[0]}x{shape[1]}.h5"
            whole = np.concatenate(images).astype(np.complex64)
            yield Drawn(name, whole, np.concatenate(measured), told)
