"""`mri-posterior models ...`: what the learned priors are, and where they come from."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models import DEFAULT_MODEL
from models.errors import ModelError
from service.commands.help import Help, HelpGroup
from service.commands.options import AsJson, Device, Overwrite
from service.commands.outputs import require_writable

model_app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    help="Learned priors: list, show, verify, typical, add, remove, package, convert.",
)
console = Console(stderr=True)
output = Console()

Name = Annotated[str, typer.Argument(help="Name of a model (see `models list`).")]
NewName = Annotated[str, typer.Argument(help="Name of the new model: a-z, 0-9 and hyphens.")]
Training = Annotated[str, typer.Option(help="How it was trained, for its users.")]
Precision = Literal["int8", "bfloat16", "float16", "float32"]
Licence = Annotated[str, typer.Option(help="Licence of the weights.")]
Attribution = Annotated[list[str], typer.Option(help="Source of the data; may be repeated.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of models, if not your own.")]


class Origin(StrEnum):
    """Whose checkpoints can be converted."""

    DIFFUSERS = "diffusers"
    EDM = "edm"


@model_app.command("list", cls=Help)
def list_command(
    as_json: AsJson = False,
) -> None:
    """List the priors that `--model` accepts; weights are not checked (see `verify`)."""
    from models.registry import list_models  # lazy: loads pydantic, NumPy

    found = [_summary(name) for name in list_models()]
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "parameters", "sigma", "trained on", "licence", "from"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    for row in found:
        name = row["name"] + (" (default)" if row["default"] else "")
        origin = "shipped" if row["shipped"] else "own"
        if row["error"] is not None:
            table.add_row(name, "", "", Text(f"unusable: {row['error']}", "red"), "", origin)
            continue
        low, high = row["sigma_range"]
        sources = ", ".join(_short(source) for source in row["data_attributions"])
        table.add_row(
            name,
            f"{row['parameters'] / 1e6:.1f} M",
            f"{low:g}-{high:g}",
            Text(sources),
            Text(_short(row["licence"])),
            origin,
        )
    output.print(table if found else "no models are installed")


def _summary(name: str) -> dict[str, Any]:
    """One model for people and programs; a damaged one is listed with its error's code."""
    from models.model_folder import count_parameters  # lazy: loads pydantic, NumPy
    from models.registry import find_model, is_shipped, read_config  # lazy: the same

    about = {"name": name, "default": name == DEFAULT_MODEL, "shipped": is_shipped(name)}
    try:
        config = read_config(name)
        return {
            **about,
            "parameters": count_parameters(find_model(name)),
            **config.model_dump(
                mode="json",
                include={
                    "sigma_range",
                    "weights_dtype",
                    "weights_sha256",
                    "licence",
                    "data_attributions",
                },
            ),
            "architecture": config.network.architecture,
            "error": None,
        }
    except ModelError as error:
        return {**about, "error": error.code}


def _short(text: str) -> str:
    """What comes before the first colon, comma or parenthesis, at most 24 characters."""
    for mark in (":", ",", "(", "\n"):
        text = text.split(mark)[0]
    text = text.strip()
    return text if len(text) <= 24 else text[:23] + "…"


@model_app.command(cls=Help)
def show(name: Name) -> None:
    """Show a model's configuration, SHA-256 and model card (which tells of its training)."""
    from rich.markdown import Markdown  # lazy: slow to load

    from models.registry import read_card, read_config  # lazy: loads pydantic, NumPy

    config, card = read_config(name), read_card(name)
    told = {"training", "data_attributions"} if card else set()
    table = Table(box=None, show_header=False, pad_edge=False)
    for field, value in config.model_dump(
        mode="json", exclude={"name", "weights_sha256", *told}
    ).items():
        table.add_row(field, Text(value if isinstance(value, str) else json.dumps(value)))
    output.print(table)
    # On a line of its own, unwrapped: it is there to be compared and copied.
    output.print(f"SHA-256 {config.weights_sha256}", soft_wrap=True, highlight=False)
    output.print(Markdown(card, hyperlinks=False))


@model_app.command(cls=Help)
def sample(
    name: Name,
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write (PNG).")],
    count: Annotated[int, typer.Option(min=1, max=64, help="Images.")] = 8,
    size: Annotated[int, typer.Option(min=32, max=512, help="Rows and columns.")] = 256,
    evaluations: Annotated[int, typer.Option(min=2, max=2000, help="Network evaluations.")] = 120,
    seed: Annotated[int, typer.Option(min=0, help="Another one draws other images.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw images from the prior alone: what it believes before any measurement."""
    require_writable((out,), overwrite=overwrite)
    from rich.progress import TaskProgressColumn  # lazy: slow to load

    from models.loading import load_prior  # lazy: loads torch
    from service.commands.terminal import progress  # lazy: loads numpy
    from service.prior_samples import draw, save_samples  # lazy: loads torch
    from service.runs import choose_device  # lazy: the same

    target = choose_device(device)
    prior = load_prior(name, target)
    with progress(console, TaskProgressColumn(), quiet=False) as bar:
        task = bar.add_task(f"drawing from {name}", total=1.0)
        for share, current in draw(prior, count, size, evaluations, seed, target):
            images = current
            bar.update(task, completed=share)
    save_samples(out, images)
    output.print(f"written: {out}")


@model_app.command(cls=Help)
def typical(
    name: Name,
    data: Annotated[
        list[Path], typer.Argument(help="Images of the kind that the prior is for, as for `train`.")
    ],
    scans: Annotated[
        int, typer.Option(min=24, max=2000, help="Scans to simulate and reconstruct.")
    ] = 84,
    about: Annotated[str | None, typer.Option(help="What the images are.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="typical.json [the model's own].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure what a model makes of right scans: what its verdicts go by.

    The table belongs to the weights and lies beside them. Without one, verdicts do not say whether
    a model knows images like those of a scan.
    """
    from service.commands.typical_run import run_typical  # lazy: loads torch

    run_typical(name, data, scans, about, out, seed, device, quiet=quiet)


@model_app.command(cls=Help)
def verify(name: Name) -> None:
    """Check a model's files and run its network on noise; exit code 2 says that it failed."""
    from models.loading import verify_model  # lazy: loads torch

    (config, tensors), smoke = verify_model(name)
    output.print(
        f"{name}: SHA-256, format, shapes, types and values are as configured ({len(tensors)} "
        f"tensors of {config.network.architecture}); it turns noise of {smoke.sigma:g} into "
        f"{smoke.remaining:.2g}",
        highlight=False,
    )


@model_app.command(cls=Help)
def add(
    folder: Annotated[Path, typer.Argument(help="Folder of a model.")],
    name: Annotated[str | None, typer.Option(help="Another name than the model's own.")] = None,
) -> None:
    """Copy a model into your own folder of models, after the checks of `verify`."""
    from models.install import add_model  # lazy: loads torch

    _print_written(add_model(folder, name))


@model_app.command(cls=Help)
def remove(name: Name) -> None:
    """Delete one of your own models; shipped ones stay."""
    from models.install import remove_model  # lazy: loads torch

    output.print(f"removed: {remove_model(name)}", soft_wrap=True, highlight=False, markup=False)


@model_app.command("package", cls=Help)
def package_command(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    name: NewName,
    training: Training,
    licence: Licence,
    attribution: Attribution,
    lowest_sigma: Annotated[
        float, typer.Option(min=0.001, help="Noise level below which the prior is not used.")
    ] = 0.022,
    weights_dtype: Annotated[Precision, typer.Option(help="How weights are stored.")] = "bfloat16",
    above: Annotated[
        str | None,
        typer.Option(
            help="Model that takes over from its own lowest noise level on: a network for much "
            "noise, or a model that has one (brain-small)."
        ),
    ] = None,
    between: Annotated[
        str | None,
        typer.Option(help="Model that takes over below that, from its own lowest level on."),
    ] = None,
    out: Out = None,
) -> None:
    """Make a model that `--model` accepts out of a training run."""
    from models.install import package  # lazy: loads torch
    from models.registry import user_folder  # lazy: the same

    made = package(
        run,
        out or user_folder(),
        name,
        training=training,
        licence=licence,
        data_attributions=tuple(attribution),
        lowest_sigma=lowest_sigma,
        weights_dtype=weights_dtype,
        above=above,
        between=between,
    )
    _print_written(made)


@model_app.command(cls=Help)
def convert(
    source: Annotated[
        Path,
        typer.Argument(help="diffusers: UNet2DModel folder. edm: state dict, .safetensors or .pt."),
    ],
    name: NewName,
    origin: Annotated[Origin, typer.Option("--from", help="Who made the checkpoint.")],
    scale: Annotated[
        float,
        typer.Option(
            help="Pixel value of the model that stands for 1.0 here, the 99th percentile of the "
            "magnitude."
        ),
    ],
    training: Training,
    licence: Licence,
    attribution: Attribution,
    sigma_low: Annotated[
        float | None, typer.Option(help="Lowest noise level to be used, in units of our images.")
    ] = None,
    sigma_high: Annotated[float | None, typer.Option(help="Highest noise level.")] = None,
    sigma_data: Annotated[
        float | None, typer.Option(help="edm: sigma_data of its preconditioning (often 0.5).")
    ] = None,
    weights_dtype: Annotated[Precision, typer.Option(help="How weights are stored.")] = "bfloat16",
    out: Out = None,
) -> None:
    """Make a model out of a two-channel (real, imaginary) checkpoint of diffusers or EDM.

    The levels default to those of a diffusers schedule; EDM checkpoints do not say theirs.
    """
    from models.convert import Conversion  # lazy: loads torch
    from models.convert_diffusers import convert_diffusers  # lazy: the same
    from models.convert_edm import convert_edm  # lazy: the same
    from models.registry import user_folder  # lazy: the same

    about = Conversion(
        name=name,
        scale=scale,
        training=training,
        licence=licence,
        data_attributions=tuple(attribution),
        sigma_low=sigma_low,
        sigma_high=sigma_high,
        weights_dtype=weights_dtype,
    )
    folder = out or user_folder()
    if origin == Origin.DIFFUSERS:
        if sigma_data is not None:
            raise typer.BadParameter("only --from edm takes it", param_hint="--sigma-data")
        _print_written(convert_diffusers(source, folder, about))
    else:
        for option, given in (
            ("--sigma-data", sigma_data),
            ("--sigma-low", sigma_low),
            ("--sigma-high", sigma_high),
        ):
            if given is None:
                raise typer.BadParameter("--from edm needs it", param_hint=option)
        assert sigma_data is not None
        _print_written(convert_edm(source, folder, about, sigma_data))


def _print_written(folder: Path) -> None:
    output.print(f"written: {folder}", soft_wrap=True, highlight=False, markup=False)
