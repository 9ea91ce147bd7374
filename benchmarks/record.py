"""What an experiment leaves behind: figures that were to be met, a table, a picture."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
Row = Mapping[str, float | int | str | bool | None]


@dataclass(frozen=True)
class Check:
    """One number beside the one it should be."""

    name: str
    found: float
    expected: float
    tolerance: float
    """Largest absolute difference that the experiment's own error allows."""

    @property
    def met(self) -> bool:
        """Whether the two agree; never for a number that is not finite."""
        close = abs(self.found - self.expected) <= self.tolerance
        return bool(math.isfinite(self.found) and close)


@dataclass(frozen=True)
class Outcome:
    """The small result of an experiment, ready to be written."""

    checks: tuple[Check, ...]
    rows: tuple[Row, ...]
    error: str
    """What the numbers' own uncertainty is, in words."""


ResultT = TypeVar("ResultT")


def publish(
    name: str,
    experiment: Callable[[], ResultT],
    outcome: Callable[[ResultT], Outcome],
    draw: Callable[[ResultT], Figure | None],
) -> bool:
    """Run an experiment, print its checks, write NAME.json, .csv and .png; True when all is met."""
    mpl.use("Agg")
    started = time.perf_counter()
    result = experiment()
    seconds = time.perf_counter() - started
    found = outcome(result)
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m benchmarks {name}",
        "seconds": round(seconds, 1),
        "error": found.error,
        "checks": [
            {
                "name": check.name,
                "found": _rounded(check.found),
                "expected": _rounded(check.expected),
                "tolerance": _rounded(check.tolerance),
                "met": check.met,
            }
            for check in found.checks
        ],
        "rows": [{key: _rounded(value) for key, value in row.items()} for row in found.rows],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    _write_table(RESULTS / f"{name}.csv", found.rows)
    figure = draw(result)
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=100)
    for check in found.checks:
        verdict = "met" if check.met else "NOT MET"
        print(f"{verdict:8}{check.name}: {check.found:.4g}, expected {check.expected:.4g}")
    print(f"{name}: {seconds:.0f} s; {RESULTS / name}.json, .csv, .png")
    return all(check.met for check in found.checks)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _rounded(value) for key, value in row.items()} for row in rows)


def _rounded(value: float | str | bool | None) -> float | int | str | bool | None:
    if isinstance(value, bool | int | str) or value is None:
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
