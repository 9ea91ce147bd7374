"""Options that several commands have, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.help import EXPERT

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Model = Annotated[str, typer.Option(metavar="NAME", help="Prior, by name; see `models list`.")]
Slices = Annotated[str | None, typer.Option(metavar="TEXT", help="3, 3:5 or 0,2,4 [all].")]
SliceCoherence = Annotated[
    float,
    typer.Option(min=0, max=1000, metavar="PIXELS",
                 help="Samples hold together along a stack; 0: not.",
                 rich_help_panel=EXPERT),
]  # fmt: skip
Volume = Annotated[
    bool,
    typer.Option("--volume", help="One posterior of a scan encoded in 3-D.",
                 rich_help_panel=EXPERT),
]  # fmt: skip
FftShift = Annotated[
    bool | None,
    typer.Option(
        help="Zero frequency from corner to middle [refuse].",
        rich_help_panel=EXPERT,
    ),
]
Layout = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Layout of the file's arrays [as it looks].",
                 rich_help_panel=EXPERT),
]  # fmt: skip
Axes = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="As slice,row,column,coil [by layout].",
                 rich_help_panel=EXPERT),
]  # fmt: skip
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write (HDF5).")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
