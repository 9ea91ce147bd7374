"""How `--help` looks: an example first, then options in groups, one line each where it fits."""

from __future__ import annotations

import re
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

COMMON, EXPERT = "Options", "For experts"
"""Headings that several commands have; an option without a heading is a common one."""
_VALUES = {
    "path": "FILE",
    "file": "FILE",
    "directory": "FOLDER",
    "str": "TEXT",
    "int": "N",
    "int range": "N",
    "float": "X",
    "float range": "X",
    "float,float,float": "X X X",
}
_LEFT = 30
"""Columns of the names; a longer one has its text below it."""


class Help(TyperCommand):
    """A command with this help."""

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        del formatter  # typer's own; its frames and columns take three lines for each option
        _print_help(self, ctx)

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [
            piece.strip("{}").upper() if "{" in piece else piece
            for piece in super().collect_usage_pieces(ctx)
        ]


class HelpGroup(TyperGroup):
    """A group of commands with this help.

    Ctrl-C is answered, with the words of the KeyboardInterrupt where a command gives it some.
    """

    def format_help(self, ctx: typer.Context, formatter: object) -> None:  # type: ignore[override]
        del formatter
        _print_help(self, ctx)

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            how = str(stop) or "a file that was not finished was not written"
            Console(stderr=True).print(f"stopped; {how}", highlight=False, soft_wrap=True)
            raise typer.Exit(130) from stop


def _print_help(command: TyperCommand | TyperGroup, context: typer.Context) -> None:
    console = Console(highlight=False, markup=False)
    usage = " ".join(command.collect_usage_pieces(context))
    console.print(Text.assemble("Usage: ", (f"{context.command_path} {usage}", "bold")))
    text = (command.help or "").partition("\f")[0].strip()
    if text:
        paragraphs = re.split(r"\n\s*\n", text)
        console.print("\n" + "\n\n".join(" ".join(each.split()) for each in paragraphs))
    if command.epilog:
        console.print(Text.assemble(("\nFor example\n", "bold"), _indented(command.epilog)))
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, TyperArgument | TyperOption) and not parameter.hidden:
            heading = parameter.rich_help_panel or (
                "Arguments" if isinstance(parameter, TyperArgument) else COMMON
            )
            groups.setdefault(heading, []).append(_row(parameter, context))
    if isinstance(command, TyperGroup):
        options = groups.pop(COMMON, [])
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                heading = getattr(one, "rich_help_panel", None) or "Commands"
                groups.setdefault(heading, []).append((name, one.get_short_help_str(300)))
        groups[COMMON] = options
    # What experts alone need comes last, in whatever order it was declared.
    for heading in sorted(groups, key=lambda name: name == EXPERT):
        console.print(Text(f"\n{heading}", "bold"))
        for line in _lines(groups[heading]):
            console.print(line)


def _indented(text: str) -> str:
    return "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())


def _row(parameter: TyperArgument | TyperOption, context: typer.Context) -> tuple[str, str]:
    """What is typed, and what it means."""
    if isinstance(parameter, TyperArgument):
        return parameter.display_name_raw.upper(), _meaning(parameter)
    short = [name for name in parameter.opts if not name.startswith("--")]
    long = [name for name in parameter.opts if name.startswith("--")]
    if parameter.secondary_opts:
        long = [f"--[no-]{long[0].removeprefix('--')}"]
    typed = ", ".join([*short, *long])
    if not parameter.is_flag:
        typed += f" {parameter.metavar or _value(parameter.display_type(context))}"
    return typed, _meaning(parameter)


def _value(told: str) -> str:
    """What typer says of a type, in a word."""
    kind = re.sub(r"^list\[(.*)\]$", r"\1", told.strip("<>"))
    return _VALUES.get(kind, kind)


def _meaning(parameter: TyperArgument | TyperOption) -> str:
    text = parameter.help or ""
    default = parameter.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool)
    if parameter.required:
        text += " [required]" if isinstance(parameter, TyperOption) else ""
    elif shown and parameter.show_default and str(default):
        text += f" [{default}]"
    elif isinstance(default, bool) and default and getattr(parameter, "secondary_opts", None):
        text += " [yes]"
    return text.replace("`", "")


def _lines(rows: list[tuple[str, str]]) -> Iterator[Table]:
    """Two columns; the second is as wide as the terminal allows."""
    width = min(_LEFT, max(len(left) for left, _ in rows))
    for left, right in rows:
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=width + 2, no_wrap=True)
        line.add_column()
        if len(left) > width:
            yield _alone(left)
            left = ""
        line.add_row(Text(f"  {left}", "cyan"), Text(right))
        yield line


def _alone(left: str) -> Table:
    line = Table.grid()
    line.add_row(Text(f"  {left}", "cyan"))
    return line
