"""The command line: arguments in, exit code out (0 done, 2 bad input, 1 failure).

Nothing heavy is imported before a command runs: signatures come from light modules, and each
command imports its work in its body. `--help` and a mistyped name so answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from service.commands.batch import batch
from service.commands.benchmark import benchmark
from service.commands.calibrate import calibrate
from service.commands.demo import demo
from service.commands.doctor import doctor
from service.commands.evaluate import evaluate
from service.commands.export import export
from service.commands.failures import tell
from service.commands.help import Help, HelpGroup
from service.commands.info import info
from service.commands.models import model_app
from service.commands.reconstruct import EXAMPLE, reconstruct
from service.commands.region import region
from service.commands.scanner import gateway, stream
from service.commands.scans import simulate, undersample
from service.commands.server import keys_app, openapi, serve, settings, submit
from service.commands.train import train
from service.commands.upkeep import backup, prune, restore
from service.commands.workers import worker, workers
from service.cores import prepare_threads

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # mistakes are told in plain lines: the frames take a while to load
    help="From undersampled MRI k-space to a posterior: mean, samples and uncertainty maps. "
    "For research, not for diagnosis.",
    epilog="mri-posterior demo\n" + EXAMPLE,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # lazy: only this needs it

        Console().print(f"mri-posterior {version('mri-posterior')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself; the commands have their own."""


_HEADINGS: dict[str, tuple[Callable[..., None], ...]] = {
    "Scans and results": (
        info,
        reconstruct,
        evaluate,
        region,
        export,
        undersample,
        simulate,
        demo,
        doctor,
    ),
    "Many scans, and a service": (
        batch,
        serve,
        submit,
        settings,
        openapi,
        worker,
        workers,
        backup,
        restore,
        prune,
    ),
    "Scanners": (gateway, stream),
    "Priors": (train, calibrate, benchmark),
}
_EXAMPLES = {
    "reconstruct": EXAMPLE,
    "evaluate": "mri-posterior evaluate result.h5 --reference full.h5 --png error.png",
    "export": "mri-posterior export result.h5 --to nifti -o image.nii.gz",
    "undersample": "mri-posterior undersample full.h5 -o scan.h5 --acceleration 4",
    "simulate": "mri-posterior simulate -o full.h5 --rows 160 --columns 160",
    "batch": "mri-posterior batch ARCHIVE --out TARGET --preset fast --dry-run",
    "submit": "mri-posterior submit scan.h5 -o result.h5 --preset fast",
    "train": "mri-posterior train --data IMAGES --out RUN --steps 2000",
    "calibrate": "mri-posterior calibrate HELD_OUT --model my-model --acceleration 4",
}
for _heading, _commands in _HEADINGS.items():
    for _command in _commands:
        _name = _command.__name__
        app.command(cls=Help, rich_help_panel=_heading, epilog=_EXAMPLES.get(_name))(_command)
app.add_typer(keys_app, name="keys", rich_help_panel="Many scans, and a service")
app.add_typer(model_app, name="models", rich_help_panel="Priors")


def main() -> None:
    """Entry point: typed errors become one line and an exit code."""
    prepare_threads(os.environ)
    try:
        app()
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is raised again
        tell(error)


if __name__ == "__main__":
    main()
