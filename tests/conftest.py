"""What is alike for every test and every process that a test starts.

One thread: sums of other lengths round otherwise, and samplers carry rounding on, so that results
that are compared have to come from equally many threads. `make test` runs two processes of tests
beside each other; their terminal's size, which pytest-xdist hands on, is nobody's.
"""

from __future__ import annotations

import os

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
for _side in ("COLUMNS", "LINES"):
    os.environ.pop(_side, None)
