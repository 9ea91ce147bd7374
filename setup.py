"""Where the packages lie once installed: in `mri_posterior`, clear of anybody's `models.py`.

In a checkout, and so in an editable installation, they are the folders `recon`, `models` and
`service`, which `mri_posterior/__init__.py` shows under the longer names too. A wheel holds them
inside `mri_posterior`, and their imports of each other are written anew when they are copied there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = "mri_posterior"
ROOMS = ("recon", "models", "service")
_ANY = "|".join(ROOMS)
_FROM = re.compile(rf"^(\s*)from ({_ANY})(?=[. ])", re.MULTILINE)
_IMPORT = re.compile(rf"^(\s*)import ((?:{_ANY})(?:, (?:{_ANY}))*)$", re.MULTILINE)


def moved(source: str) -> str:
    """A module's text with its imports of the rooms, also those in scripts that it starts."""
    return _IMPORT.sub(rf"\1from {ROOT} import \2", _FROM.sub(rf"\1from {ROOT}.\2", source))


class Moved(build_py):
    """Copies the modules of a wheel to their new place."""

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """As setuptools does, and then written anew."""
        written, copied = super().build_module(module, module_file, package)
        path = Path(written)
        path.write_text(moved(path.read_text(encoding="utf-8")), encoding="utf-8")
        return written, copied


found = find_packages(include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])
if "editable_wheel" in sys.argv:
    setup(packages=[ROOT, *found])
else:
    setup(
        packages=[ROOT, *(f"{ROOT}.{name}" for name in found)],
        package_dir={ROOT: ROOT} | {f"{ROOT}.{name}": name.replace(".", "/") for name in found},
        cmdclass={"build_py": Moved},
    )
