"""The table and the curves of `benchmarks.peers`, from its records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.contestants import PEERS
from benchmarks.record import Check, Outcome
from benchmarks.shared_slice import Case
from benchmarks.single_images import methods

CASES = (
    Case("phantom", 4, 0.13),  # ESPIRiT needs 12 central lines, and there are 96 in all
    Case("brain_t1_8ch", 4),
    Case("brain_t1_8ch", 8),
    Case("head_t1_sagittal_1ch", 4),
    Case("head_t1_sagittal_1ch", 8),
    Case("brain_wrap_8ch", 4),
    Case("brain_wrap_8ch", 8),
)
CURVES = CASES[:2]
BUDGETS = (10, 20, 40, 80, 160, 320)
FAST, STANDARD = "ours, fast", "ours, standard"
FULL_LANGEVIN = "csgm-mri-langevin, published"
Record = Mapping[str, Any]


def table(records: Mapping[str, Record]) -> tuple[dict[str, Any], ...]:
    """One row per contestant and scan, in the order of the jobs; times as ratios to ours."""
    kinds = ("tuned", "published")
    names = [
        *(FAST, STANDARD, f"{STANDARD}, measurement path"),
        *methods(),
        *(f"{peer.name}, {kind}" for peer in PEERS for kind in kinds),
    ]
    rows: list[dict[str, Any]] = []
    for case in CASES:
        base = records.get(f"{case.name} | {STANDARD}")
        for name in names:
            record = records.get(f"{case.name} | {name}")
            if record is None:
                continue
            row: dict[str, Any] = {"scan": case.name, "contestant": name}
            one = "PSNR" in record
            for kind in ("sample", "mean"):
                for score in ("PSNR", "SSIM", "NMSE"):
                    # A single image stands in the columns of the mean.
                    key = score if one and kind == "mean" else f"{kind} {score}"
                    row[f"{kind} {score}"] = record.get(key)
            row["all draws PSNR"] = record.get("all draws PSNR")
            for key in ("chi2", "cover50", "cover90", "calibration ratio"):
                row[key] = record.get(key)
            row["evaluations per sample"] = record["evaluations"]
            row["seconds per sample"] = record["wall seconds"]
            if base:
                own = base["in network evaluations"]
                row["time over ours"] = record["in network evaluations"] / own
            rows.append(row)
    return tuple(rows)


def outcome(records: Mapping[str, Record]) -> Outcome:
    """What the README claims: nothing here is tuned to be met."""
    checks = []
    for case in CASES:
        ours = records.get(f"{case.name} | {FAST}")
        theirs = records.get(f"{case.name} | {FULL_LANGEVIN}")
        if ours and theirs and theirs["mean PSNR"]:
            spent = theirs["evaluations"] / ours["evaluations"]
            gain = ours["all draws PSNR"] - theirs["mean PSNR"]
            checks += [
                Check(f"{case.name}: 30 times fewer evaluations", float(spent >= 30), 1, 0),
                Check(f"{case.name}: mean at least as good", float(gain >= 0), 1, 0),
            ]
        best = records.get(f"{case.name} | {STANDARD}")
        for peer in PEERS:
            rival = records.get(f"{case.name} | {peer.name}, tuned")
            # Nothing is shown by beating a run that left the finite numbers.
            if best and rival and rival["mean PSNR"]:
                for key, words in (("all draws PSNR", "all draws"), ("mean PSNR", "8 draws")):
                    name = f"{case.name}: our mean of {words} at least as good as {peer.name}'s"
                    ahead = best[key] >= rival["mean PSNR"]
                    checks.append(Check(f"{name}, tuned", float(ahead), 1, 0))
                nearer = _dishonesty(best) <= _dishonesty(rival)
                name = f"{case.name}: better calibrated than {peer.name}, tuned"
                checks.append(Check(name, float(nearer), 1, 0))
    return Outcome(
        tuple(checks),
        table(records),
        "one slice, one mask and one run of 8 samples each: a few tenths of a decibel mean nothing",
    )


def _dishonesty(record: Record) -> float:
    """How many times too wide or too narrow the draws are, as the logarithm of V / B."""
    ratio = record["calibration ratio"]
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def draw(records: Mapping[str, Record]) -> Figure:
    """PSNR of the mean against evaluations, and against calibration on each scan."""
    shown = [case for case in CASES if f"{case.name} | {STANDARD}" in records]
    curved = [case for case in CURVES if _curve(records, case, "ours")]
    columns = 4
    rows = max(1, -(-(len(shown) + len(curved)) // columns))
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.8 * rows), layout="constrained", squeeze=False
    )
    places = iter(axes.flat)
    for case in curved:
        _draw_curves(next(places), records, case)
    for case in shown:
        _draw_calibration(next(places), records, case)
    for place in places:
        place.axis("off")
    handles = {
        label: handle
        for place in axes.flat
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _draw_curves(place: Axes, records: Mapping[str, Record], case: Case) -> None:
    for k, name in enumerate((*(peer.name for peer in PEERS), "ours")):
        points = _curve(records, case, name)
        colour, width = ("k", 2) if name == "ours" else (f"C{k}", 1)
        if points:
            place.plot(*zip(*points, strict=True), "o-", ms=3, label=name, color=colour, lw=width)
    pooled = _curve(records, case, "ours", "all draws PSNR")
    place.plot(*zip(*pooled, strict=True), "k^--", ms=3, label="ours, all draws of 4 chains")
    place.set(
        xscale="log", xlabel="network evaluations per sample", ylabel="PSNR of the mean of 4, dB"
    )
    place.set_title(f"{case.name}: quality against evaluations", fontsize=9)


def _draw_calibration(place: Axes, records: Mapping[str, Record], case: Case) -> None:
    colours = {f"{peer.name}, tuned": f"C{k}" for k, peer in enumerate(PEERS)}
    colours |= {f"{peer.name}, published": f"C{k}" for k, peer in enumerate(PEERS)}
    for row in table(records):
        name = str(row["contestant"])
        if row["scan"] != case.name or row["sample PSNR"] is None:
            continue
        marker = "*" if name.startswith("our") else "o" if name.endswith("tuned") else "x"
        face = {FAST: "grey", STANDARD: "k"}.get(name, colours.get(name, "tab:pink"))
        point = row["calibration ratio"], row["mean PSNR"]
        size = 11 if marker == "*" else 6
        place.plot(*point, marker, color=face, ms=size, label=name, ls="none")
    place.axvline(1, color="k", lw=0.7, ls=":")
    place.set(
        xscale="log", xlabel="calibration ratio (1: honest)", ylabel="PSNR of the mean of 8, dB"
    )
    # As plain numbers, few enough to stand beside each other.
    place.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    place.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    place.xaxis.set_minor_formatter(NullFormatter())
    place.set_title(case.name, fontsize=9)


def _curve(
    records: Mapping[str, Record], case: Case, name: str, score: str = "mean PSNR"
) -> list[tuple[float, float]]:
    """(evaluations per sample as counted, PSNR of the mean of four samples)."""
    found = []
    for count in BUDGETS:
        record = records.get(f"{case.name} | curve | {name} | {count}")
        if record and record["mean PSNR"]:
            found.append((record["evaluations"], record[score]))
    return found
