"""Streams of MRD version 2 through the bridge of the documentation: its own tools at both ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mrd-python==2.2.1", "ismrmrd==1.14.2")
IMAGES = """
import sys, mrd, numpy
found = {}
with mrd.BinaryMrdReader(sys.argv[1]) as stream:
    stream.read_header()
    for item in stream.read_data():
        if hasattr(item.value, "data") and hasattr(item.value, "head"):
            series = item.value.head.image_series_index
            found[f"series{series or 0}"] = numpy.abs(item.value.data).squeeze()
numpy.savez(sys.argv[2], **found)
"""


def newer_python() -> str:
    """One that mrd-python can be installed for."""
    if sys.version_info >= (3, 12):
        return sys.executable
    places = [found for n in range(12, 15) if (found := shutil.which(f"python3.{n}"))]
    places += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[2-9].*/bin/python")))
    for place in places:
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    pytest.skip("mrd-python needs Python 3.12, and there is none")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the tools of version 2."""
    folder = tmp_path_factory.mktemp("version2")
    subprocess.run([newer_python(), "-m", "venv", "--without-pip", str(folder)], check=True)
    program = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(program), "install", "-q", *PACKAGES]
    made = subprocess.run(pip, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mrd-python cannot be installed: {made.stderr[-200:]}")
    return program


def images(python: Path, stream: Path) -> dict[str, np.ndarray]:
    """By series, as the tools of version 2 read them."""
    target = stream.with_suffix(".npz")
    subprocess.run([str(python), "-c", IMAGES, str(stream), str(target)], check=True)
    with np.load(target) as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_a_stream_of_version_2_comes_back_as_one(python: Path, tmp_path: Path) -> None:
    def tool(name: str, *arguments: str, given: bytes = b"") -> bytes:
        command = [str(python), "-m", f"mrd.tools.{name}", *arguments]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout

    phantom = tool("phantom", "-m", "64", "-c", "4", "-n", "0.02")
    stream = [sys.executable, "-m", "service.cli", "stream", "--default-config", "fast"]
    ours = subprocess.run(
        stream,
        input=tool("mrd_to_ismrmrd", given=phantom),
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "ours.mrd2").write_bytes(tool("ismrmrd_to_mrd", given=ours))
    (tmp_path / "theirs.mrd2").write_bytes(tool("stream_recon", given=phantom))
    back = images(python, tmp_path / "ours.mrd2")
    [theirs] = images(python, tmp_path / "theirs.mrd2").values()
    mean, std = back["series1"], back["series2"]
    assert mean.shape == std.shape == theirs.shape
    assert np.corrcoef(mean.ravel(), theirs.ravel())[0, 1] > 0.98
    assert np.corrcoef(mean[::-1].ravel(), theirs.ravel())[0, 1] < 0.9
    assert (std < 0.2 * mean.max()).all()
