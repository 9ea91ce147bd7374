"""What `models typical` does: scans behind a progress bar, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from models.conformal_factors import check_description
from models.errors import ModelError
from models.loading import load_prior
from models.model_folder import TYPICAL_FILE
from models.registry import find_model, is_shipped
from models.typical_scans import write_typical
from service.commands.terminal import counting_bar
from service.conformal_measurement import find_files
from service.runs import choose_device
from service.typical_measurement import measure, table_of

_console = Console(stderr=True)
_output = Console()


def run_typical(
    model: str,
    data: Sequence[Path],
    scans: int,
    about: str | None,
    out: Path | None,
    seed: int,
    device: str,
    *,
    quiet: bool,
) -> None:
    """Measure and write. Raises ScanError, ModelError."""
    if out is None and is_shipped(model):
        raise ModelError(
            "shipped",
            f"'{model}' comes with the software, and its table with it; give --out, or make it "
            f"yours with `mri-posterior models add {find_model(model)} --name NAME`",
        )
    target = out or find_model(model) / TYPICAL_FILE
    files = find_files(data)
    told = about or f"{len(files)} files that were not described"
    check_description(told)
    place = choose_device(device)
    prior = load_prior(model, place)
    rows = []
    with counting_bar(_console, quiet=quiet) as bar:
        task = bar.add_task("measuring", total=None)
        for row in measure(files, prior, scans, seed, place):
            rows.append(row)
            bar.update(task, completed=row.done, total=row.of)
    write_typical(target, table_of(rows, model, told))
    if not quiet:
        _output.print(f"written: {target}", soft_wrap=True, highlight=False, markup=False)
