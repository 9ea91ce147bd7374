"""What became of a prior learned from an archive: one page, one JSON file, one sentence."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.pictures import png
from service.store.durable import write_whole
from service.training.archive_plan import ArchivePlan
from service.training.expectation_maximization import Judged, Learned
from service.training.held_out_likelihood import Gain, gain, summary
from service.training.memorised import MemorySearch

_PIXELS = 128
_LISTED = 200
_HONEST = (0.85, 0.95)
"""Share of held-out values that a 90 % interval may hold without a remark."""


def recommendation(learned: Learned, memory: MemorySearch | None) -> str:
    """Which prior to use for scans like these, and why, in a sentence or two."""
    best = learned.rounds[learned.chosen]
    other = learned.compared or learned.rounds[0]
    if best is other or best.model == other.model:
        return (
            f"Keep {other.model}: no round predicted lines of held-out subjects better than it did."
        )
    found = gain(best.predictions, other.predictions)
    over = _over(found)
    if found.sure:
        said = f"Use {best.model}: it predicts lines that it has not seen {over} {other.model}."
    elif found.mean < 0 and -found.mean > found.error:
        said = f"Keep {other.model}: {best.model} predicts lines that it has not seen {over} it."
    else:
        said = (
            f"Keep {other.model}: {best.model} predicts lines that it has not seen {over} it, "
            "which is no more than chance would bring about."
        )
    held = summary(best.predictions)
    if not _HONEST[0] <= held.coverage_90 <= _HONEST[1]:
        said += (
            f" Its 90 % intervals hold {held.coverage_90:.0%} of the held-out values: draws "
            f"{held.spread:.2f} times as far from their mean would be right."
        )
    if memory is not None and memory.too_near:
        said += (
            f" {memory.too_near} of {len(memory.samples)} images drawn from it are nearer to a "
            "training scan than any held-out scan is: do not let the weights leave the house."
        )
    return said


def _over(found: Gain) -> str:
    how = "better" if found.mean > 0 else "worse"
    spread = f" ± {found.error:.3f}" if np.isfinite(found.error) else ""
    plural = "s" * (found.units != 1)
    return (
        f"{how}, by {abs(found.mean):.3f}{spread} nats per value ({found.units} "
        f"{found.unit}{plural}), than"
    )


def document(plan: ArchivePlan, learned: Learned, memory: MemorySearch | None) -> dict[str, Any]:
    """The report as plain values. It names scans of the archive."""
    scans = learned.scans
    rows = [_row(judged) for judged in learned.rounds]
    return {
        "archive": plan.from_undersampled,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "recommendation": recommendation(learned, memory),
        "chosen": learned.rounds[learned.chosen].model,
        "training": _counts(scans.training),
        "held_out": _counts(scans.held_out),
        "rounds": rows,
        "compared": None if learned.compared is None else _row(learned.compared),
        "memory": None if memory is None else _memory(memory),
        "left_out": [each.model_dump() for each in learned.left_out],
        "licence": plan.licence,
        "attributions": list(plan.attributions),
    }


def _counts(scans: Sequence[Any]) -> dict[str, int]:
    return {
        "subjects": len({scan.subject for scan in scans}),
        "scans": len(scans),
        "slices": sum(len(scan.slices) for scan in scans),
    }


def _row(judged: Judged) -> dict[str, Any]:
    found = summary(judged.predictions)
    better = judged.gain
    return {
        "round": judged.round,
        "model": judged.model,
        "log_density": round(found.log_density, 4),
        "gain": None if better is None else round(better.mean, 4),
        "gain_error": None
        if better is None or not np.isfinite(better.error)
        else round(better.error, 4),
        "unit": None if better is None else better.unit,
        "coverage_90": round(found.coverage_90, 3),
        "spread": round(found.spread, 2),
        "slices": found.slices,
    }


def _memory(memory: MemorySearch) -> dict[str, Any]:
    held = sorted(memory.held_out)
    return {
        "samples": [
            {"correlation": round(each.correlation, 3), "nearest": each.origin}
            for each in memory.nearest
        ],
        "held_out_correlations": [round(value, 3) for value in held],
        "too_near": memory.too_near,
    }


def write_report(
    folder: Path, plan: ArchivePlan, learned: Learned, memory: MemorySearch | None
) -> tuple[Path, Path]:
    """`report.html` and `report.json` in the folder of the run."""
    told = document(plan, learned, memory)
    page, data = folder / "report.html", folder / "report.json"
    for file, text in ((page, _page(told, memory)), (data, json.dumps(told, indent=1) + "\n")):
        write_whole(file, text.encode())
    return page, data


def _page(told: dict[str, Any], memory: MemorySearch | None) -> str:
    rows = [*told["rounds"], *([told["compared"]] if told["compared"] else [])]
    return _PAGE.format(
        when=told["written"],
        sentence=html.escape(told["recommendation"]),
        facts="".join(_facts(told)),
        rounds="".join(_line(row, told["chosen"], told["compared"]) for row in rows),
        memory="" if memory is None else "".join(_pairs(memory)),
        left_out="".join(_left_out(told["left_out"])),
    )


def _facts(told: dict[str, Any]) -> Iterator[str]:
    for name in ("training", "held_out"):
        count = told[name]
        text = f"{count['slices']} slices, {count['scans']} scans, {count['subjects']} subjects"
        yield f"<dt>{name.replace('_', ' ')}</dt><dd>{text}</dd>"
    for name in ("archive", "licence"):
        yield f"<dt>{name}</dt><dd>{html.escape(str(told[name]))}</dd>"


def _line(row: dict[str, Any], chosen: str, compared: dict[str, Any] | None) -> str:
    better = "–" if row["gain"] is None else f"{row['gain']:+.4f}"
    if row["gain_error"] is not None:
        better += f" ± {row['gain_error']:.4f}"
    number = "installed" if row is compared else str(row["round"])
    cells = [
        number,
        row["model"],
        f"{row['log_density']:.4f}",
        better,
        f"{row['coverage_90']:.0%}",
        f"{row['spread']:.2f}",
    ]
    mark = ' class="chosen"' if row["model"] == chosen else ""
    return f"<tr{mark}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>\n"


def _pairs(memory: MemorySearch) -> Iterator[str]:
    held = np.array(memory.held_out)
    told = "No held-out scan could be drawn from."
    if len(held):
        told = (
            f"Draws of {len(held)} held-out slices have a correlation of {np.median(held):.2f} "
            f"(median) and {held.max():.2f} (highest) with the training image nearest to them."
        )
    yield "<h2>What the prior draws by itself, and the training image nearest to it</h2>"
    yield f"<p>{told} {memory.too_near} of {len(memory.samples)} images come nearer.</p><div>"
    for image, near in zip(memory.samples, memory.nearest, strict=True):
        pictures = "".join(f'<img src="{_small(each)}" alt="">' for each in (image, near.image))
        yield (
            f"<figure>{pictures}<figcaption>{near.correlation:.2f}, "
            f"{html.escape(near.origin)}</figcaption></figure>"
        )
    yield "</div>"


def _small(image: NDArray[np.complex64]) -> str:
    magnitude = np.abs(image)
    picture = Image.open(
        io.BytesIO(png(magnitude, (0.0, max(float(np.percentile(magnitude, 99.5)), 1e-6))))
    )
    picture.thumbnail((_PIXELS, _PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _left_out(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "<p>Nothing was left out.</p>"
        return
    kinds = Counter(row["code"] for row in rows)
    yield f"<p>{', '.join(f'{count} × {html.escape(kind)}' for kind, count in kinds.items())}</p>"
    yield "<table><tr><th>scan</th><th>slice</th><th>why</th></tr>"
    for row in rows[:_LISTED]:
        cells = (row["name"], "all" if row["slice"] is None else row["slice"], row["reason"])
        yield f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>"
    yield "</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A prior from an archive</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem; color: #1b1e23; background: #fff }}
h1 {{ font-size: 1.4rem }} h2 {{ font-size: 1.1rem }} .said {{ font-weight: 600 }}
dl {{ display: grid; grid-template-columns: max-content auto; gap: 0 1rem }}
dt {{ color: #5a626e }} dd {{ margin: 0; overflow-wrap: anywhere }}
table {{ border-collapse: collapse }} tr {{ border-top: 1px solid #d8dce2 }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .6rem }}
tr.chosen {{ background: #e8f3ee }}
figure {{ display: inline-block; margin: .3rem; width: 200px; vertical-align: top }}
figcaption {{ font-size: 12px; overflow-wrap: anywhere }}
img {{ width: 96px; height: 96px; object-fit: contain; background: #000; margin-right: 2px }}
</style></head><body>
<h1>A prior from an archive of undersampled scans</h1>
<p class="said">{sentence}</p>
<p>Written {when}. For research, not for diagnosis. This page names scans of the archive and shows
images made from them: treat it like the archive.</p>
<dl>{facts}</dl>
<h2>How well lines that were held out are predicted</h2>
<table><tr><th>round</th><th>prior</th><th>log density</th><th>gain</th><th>90 % holds</th>
<th>spread</th></tr>
{rounds}</table>
<p>Mean log density of the real components of the held-out lines, in units of the receiver noise,
nats; -1.42 is as good as it gets: the image known, the noise alone unknown. Each prior has it at
the spread of its draws that suits it best: the factor is the last column, 1 of an honest prior,
more of one that is too sure of itself. Gain: over the best round before, with its standard error.
90 % holds: share of the values in their intervals, the spread as drawn.</p>
{memory}
<h2>Left out</h2>{left_out}
</body></html>
"""
