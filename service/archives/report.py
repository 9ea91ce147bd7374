"""What became of a batch: CSV, JSON, and one HTML page with a picture of each scan."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.jobs.batches import Item
from service.pictures import png
from service.problems import Problem
from service.products import MARKER, RESULT
from service.report import Report
from service.store.files import Storage
from service.volumes import read_stack, window_of

COLUMNS = (
    "name", "state", "error", "detail", "converged", "chi2", "warnings", "slices", "model",
    "preset", "samples", "seed", "seconds", "attempts", "worker", "scan_sha256", "output", "result",
)  # fmt: skip
MOST_PICTURES = 500
_PIXELS = 160
_READERS = 8
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


Cell = str | int | float | None


@dataclass(frozen=True)
class Row:
    """One line of a report."""

    values: dict[str, Cell]
    """By column; None where there is nothing to say."""
    summary: Report | None
    place: str | None
    """Where the products are, when there are any."""


def rows_of(items: Iterable[Item], storage: Storage) -> Iterator[Row]:
    """Lines for items; what earlier runs made is told by its own report."""
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(lambda item: _row(item, storage), items)


def csv_text(rows: Iterable[Row]) -> Iterator[str]:
    """A CSV file line by line; no cell can be taken for a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for row in rows:
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        writer.writerow([_cell(row.values[name]) for name in COLUMNS])
    yield buffer.getvalue()


def json_text(rows: Sequence[Row], about: Mapping[str, object], counts: dict[str, int]) -> str:
    """The report as JSON."""
    document = dict(about) | {"counts": counts, "items": [row.values for row in rows]}
    return json.dumps(document, indent=1) + "\n"


def html_text(
    rows: Sequence[Row], about: Mapping[str, object], counts: dict[str, int], storage: Storage
) -> str:
    """One page that needs no other file, with the middle slice of each scan: mean and std."""
    shown = [row for row in rows if row.place is not None][:MOST_PICTURES]
    with ThreadPoolExecutor(_READERS) as pool:
        pictures = dict(
            zip(map(id, shown), pool.map(lambda row: _pictures(row, storage), shown), strict=True)
        )
    lines = "".join(_line(row, pictures.get(id(row))) for row in rows)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    more = sum(row.place is not None for row in rows) - len(shown)
    note = f"<p>Pictures of the first {len(shown)} results; {more} more have none.</p>" * (more > 0)
    facts = "".join(
        f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in about.items()
        if value not in (None, "", [])
    )
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _PAGE.format(told=html.escape(told), facts=facts, note=note, lines=lines, when=when)


def _row(item: Item, storage: Storage) -> Row:
    job, problem = item.job, item.problem
    summary = None if job is None else job.summary
    done = item.state == "succeeded"
    if done and job is None and item.output is not None:
        summary = _told(storage, item.output)
    slices = () if summary is None else summary.slices
    asked = None if job is None else job.parameters
    place = None if not done else (item.output or (job.id if job is not None else None))
    took = None
    if job is not None and job.started_at is not None and job.finished_at is not None:
        took = round(job.finished_at - job.started_at, 2)
    chi2 = [entry.chi2 for entry in slices]
    warnings = list(dict.fromkeys(text for entry in slices for text in entry.warnings))
    said = summary or asked
    values = {
        "name": item.name,
        "state": item.state,
        "error": None if problem is None else _kind(problem),
        "detail": None if problem is None else problem.get("detail"),
        "converged": f"{sum(e.converged for e in slices)}/{len(slices)}" if slices else None,
        "chi2": round(float(np.mean(chi2)), 3) if chi2 else None,
        "warnings": " | ".join(warnings) or None,
        "slices": len(slices) or None,
        "model": None if said is None else said.model,
        "preset": None if said is None else said.preset,
        "samples": None if said is None else said.samples,
        "seed": None if said is None else said.seed,
        "seconds": took,
        "attempts": None if job is None else job.attempt,
        "worker": None if job is None else job.worker,
        "scan_sha256": item.scan_sha256,
        "output": item.output,
        "result": None if place is None else storage.product_address(place, RESULT),
    }
    return Row(values, summary, place)


def _told(storage: Storage, output: str) -> Report | None:
    try:
        return Report.model_validate_json(storage.product(output, MARKER).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _kind(problem: Problem) -> str:
    """Type of a problem, and what exactly it was where that is known: invalid-scan/no-kspace."""
    kind = str(problem.get("type", "")).removeprefix("/problems/")
    reason = problem.get("reason")
    return kind if reason in (None, kind) else f"{kind}/{reason}"


def _cell(value: Cell) -> Cell:
    text = value if isinstance(value, str) else None
    return f"'{text}" if text is not None and text.startswith(_FORMULA) else value


def _pictures(row: Row, storage: Storage) -> tuple[str, str] | None:
    assert row.place is not None
    try:
        found = []
        for name in ("mean", "std"):
            count = 1 if row.summary is None else len(row.summary.slices)
            find = partial(storage.product, row.place)
            (image,) = read_stack(find, name, position=count // 2)
            found.append(_small(image, window_of(name, image)))
            if storage.objects is not None:
                find(f"{name}.npy").unlink(missing_ok=True)
    except (FileNotFoundError, ValueError, IndexError):
        return None
    return found[0], found[1]


def _small(image: NDArray[np.float32], window: tuple[float, float]) -> str:
    """A picture as a data URL, at most so many pixels wide and high."""
    picture = Image.open(io.BytesIO(png(image, window)))
    picture.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _line(row: Row, pictures: tuple[str, str] | None) -> str:
    values = {name: "" if value is None else str(value) for name, value in row.values.items()}
    shown = ""
    if pictures is not None:
        name = html.escape(values["name"])
        shown = (
            f'<img src="{pictures[0]}" alt="mean of {name}">'
            f'<img src="{pictures[1]}" alt="standard deviation of {name}">'
        )
    told = values["detail"] or values["warnings"]
    cells = [
        values["name"],
        values["state"] + (f": {values['error']}" if values["error"] else ""),
        values["converged"],
        values["chi2"],
        values["seconds"],
        told,
    ]
    text = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr class="{html.escape(values["state"])}"><td class="p">{shown}</td>{text}</tr>\n'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Batch report</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1b1e23; background: #fff }}
h1 {{ font-size: 1.4rem }}
dl {{ display: grid; grid-template-columns: max-content auto; gap: 0 1rem }}
dt {{ color: #5a626e }} dd {{ margin: 0; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem }}
tr {{ border-top: 1px solid #d8dce2 }}
th {{ position: sticky; top: 0; background: #fff }} td.p {{ white-space: nowrap }}
img {{ width: 96px; height: 96px; object-fit: contain; background: #000; margin-right: 2px }}
tr.failed td:nth-child(3), tr.refused td:nth-child(3) {{ color: #a3172b; font-weight: 600 }}
</style></head><body>
<h1>Batch report</h1>
<p>{told}. Written {when}. For research, not for diagnosis.</p>
<dl>{facts}</dl>{note}
<table><thead><tr><th>mean, std</th><th>scan</th><th>state</th><th>converged slices</th><th>χ²</th>
<th>seconds</th><th>what to know</th></tr></thead>
<tbody>
{lines}</tbody></table></body></html>
"""
