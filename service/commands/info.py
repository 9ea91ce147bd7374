"""`mri-posterior info`: what is in a file, whether it would run, and by which command."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from service.commands.options import AsJson

output = Console()
_LABELS = {True: "runs", False: "does not run as it is", None: "next"}


def info(
    file: Annotated[Path, typer.Argument(help="Any file: scan, result, mask, image.")],
    as_json: AsJson = False,
) -> None:
    """Say what a file is, whether it would run, and the command."""
    from recon.io.recognition import recognise  # lazy: loads HDF5
    from service.commands.outputs import about  # lazy: with it

    with about(file):
        found = recognise(file)
    advice = found.advice.replace("{file}", shlex.quote(str(file)))
    if as_json:
        told = {
            "file": str(file), "kind": found.kind, "contents": list(found.contents),
            "runs": found.runs, "advice": advice,
        }  # fmt: skip
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return
    size = file.stat().st_size / 1e6
    lines = [
        f"[bold]{escape(str(file))}[/]: {escape(found.kind)}, {size:.1f} MB",
        *(f"  {escape(line)}" for line in found.contents),
        f"[bold]{_LABELS[found.runs]}[/]: {escape(advice)}",
    ]
    for line in lines:
        output.print(line, highlight=False, soft_wrap=True)
