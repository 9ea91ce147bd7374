"""A small undersampled scan of the head phantom, to try the service with; always the same.

It is made in a process of its own: what simulates is too much for one that answers requests.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from service.problems import ProblemError

_SIZE = 128
_SLICES = 3
_SECONDS = 120


def sample_scan() -> bytes:
    """The file. Raises ProblemError."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        command = [sys.executable, "-m", __name__, str(path)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            return path.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            text = "the sample scan could not be made; the machine may be busy: try again"
            raise ProblemError("internal", text) from error


def _write(path: Path) -> None:
    from recon.io.files import write_scan  # lazy: who answers requests imports this file too
    from recon.phantom import simulate  # lazy: as above, and it brings sigpy
    from recon.undersampling import undersample, undersampling_mask  # lazy: as above

    full, _ = simulate(slices=_SLICES, rows=_SIZE, columns=_SIZE)
    write_scan(
        path, undersample(full, undersampling_mask((_SIZE, _SIZE), "equispaced", 4, 0.12, 0))
    )


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
