"""Files that appear under their names whole and on the disk, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def beside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A new name beside `path`, which becomes `path` if the block succeeds, and nothing if not."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield aside
        if durable:
            sync(aside)
        aside.replace(path)
        if durable:
            sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[tuple[IO[bytes], Path]]:
    """A file `beside` a path, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path, durable=durable) as aside, aside.open("xb") as file:
        yield file, aside


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """The file with this content, or as it was."""
    with replacing(path, durable=durable) as (file, _):
        file.write(content)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
