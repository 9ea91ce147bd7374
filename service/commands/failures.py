"""What a command says when it fails: one sentence, and an exit code for scripts."""

from __future__ import annotations

import sys
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from models.errors import ModelError
from recon.errors import CalibrationError, ReconError, ScanError

REFUSED, FAILED = 2, 1


def tell(error: Exception) -> NoReturn:
    """Say what went wrong and exit: 2 where the input is refused, 1 else.

    What nobody foresaw is raised again: its trace belongs into a bug report.
    """
    console = Console(stderr=True)
    code = _exit_code(error)
    if code is None:
        raise error
    kind = "[bold red]refused[/]" if code == REFUSED else "[bold red]failed[/]"
    reason = getattr(error, "code", None)
    told = getattr(error, "message", None) or _of_system(error)
    console.print(
        f"{kind}{f' ({reason})' if reason else ''}: {escape(told)}", highlight=False, soft_wrap=True
    )
    sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    if isinstance(error, ScanError | CalibrationError | ModelError | OSError):
        return REFUSED
    from service.client import ServiceError  # lazy: slow to load, and needed only now
    from service.settings import SettingsError  # lazy: the same
    from service.store.objects import StorageError  # lazy: the same

    if isinstance(error, SettingsError):
        return REFUSED
    return FAILED if isinstance(error, ReconError | ServiceError | StorageError) else None


def _of_system(error: Exception) -> str:
    """The words of the operating system, with the file they are about."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
