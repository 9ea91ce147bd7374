"""What the reading process may do, and what becomes of it when it misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.io import child_reader
from recon.io.files import read_scan
from recon.io.read_limits import ReadLimits
from tests.recon.scan_files import noise, refusal, store


def boot(ending: str) -> str:
    """The child's first lines with another end, to make it misbehave as a broken library would."""
    return child_reader.BOOT.replace("from recon.io.read_worker import main\nmain()", ending)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return store(tmp_path / "good.h5", kspace=noise(1, 1, 4, 4))


def test_hostile_files_are_refused_through_the_child(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(noise(1, 1, 4, 4).tobytes())
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        external = [(str(secret), 0, 128)]
        file.create_dataset("kspace", (1, 1, 4, 4), "c8", external=external)
    assert refusal(path) == "external-storage"


def test_truncated_file(good: Path) -> None:
    content = good.read_bytes()
    for length in (9, 200, len(content) // 2, len(content) - 1):
        good.write_bytes(content[:length])
        assert refusal(good) == "unreadable"


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    assert refusal(tmp_path / "pipe.h5") == "not-a-file"


def test_wall_clock_limit(good: Path) -> None:
    assert refusal(good, limits=ReadLimits(wall_seconds=0.01)) == "reader-timeout"


def test_processor_limit(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = """
from recon.io.read_worker import ReadLimits, limit_process
limit_process(ReadLimits(cpu_seconds=1))
while True: pass
"""
    monkeypatch.setattr(child_reader, "BOOT", boot(loop))
    start = time.monotonic()
    assert refusal(good, limits=ReadLimits(wall_seconds=60)) == "reader-timeout"
    assert time.monotonic() - start < 50


@pytest.mark.parametrize("foreseen", [True, False])
def test_memory_limit(foreseen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1, 1, 4096, 4096), "c8", fill_time="never")
        file["kspace"][0, 0, -1, -1] = 1  # makes the file as long as it declares, mostly a hole
    if not foreseen:  # then the operating system's limit is what holds
        blind = "import recon.io.read_worker as w; w._require_memory = lambda *_: None; w.main()"
        monkeypatch.setattr(child_reader, "BOOT", boot(blind))
    assert refusal(path, limits=ReadLimits(memory_bytes=200 << 20)) == "reader-memory"


def test_memory_limit_while_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "packed.h5"
    kspace = np.tile(noise(64, 64), (1, 1, 16, 32))
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=kspace.shape, compression="gzip")
    assert refusal(path, limits=ReadLimits(memory_bytes=180 << 20)) == "reader-memory"


@pytest.mark.parametrize(
    "ending",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os; os.abort()",
        "raise SystemExit(1)",
        "pass",
        "open('answer.json', 'w').write('{')",
        "open('answer.json', 'w').write('[' * 100000)",
        "open('answer.json', 'w').write('[]')",
        "open('answer.json', 'w').write('{\"error\": 3}')",
        "open('answer.json', 'w').write('{\"arrays\": {\"kspace\": 7}}')",
        "import os; os.mkfifo('answer.json')",
    ],
)
def test_child_that_dies_or_babbles(
    ending: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_reader, "BOOT", ending)
    assert refusal(good) == "reader-crashed"


def test_child_gets_no_secrets_and_leaves_no_traces(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    report = tmp_path / "environment.json"
    dump = f"""
import json, os
open({str(report)!r}, "w").write(json.dumps([dict(os.environ), os.getcwd()]))
from recon.io.read_worker import main
main()
import sys
assert "torch" not in sys.modules
"""
    monkeypatch.setattr(child_reader, "BOOT", boot(dump))
    read_scan(good)
    environment, folder = json.loads(report.read_text())
    assert environment.keys() <= {*child_reader.ENVIRONMENT, "LC_CTYPE"}
    assert environment["HDF5_PLUGIN_PRELOAD"] == "::"
    assert Path(folder).parent == scratch
    assert not list(scratch.iterdir())


def test_files_is_light_to_import() -> None:
    code = "import sys, recon.io.files; assert 'torch' not in sys.modules"
    root = Path(child_reader.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_many_slabs_and_chunks_across_them_are_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "import recon.io.read_worker as worker; worker._SLAB_BYTES = 300; worker.main()"
    monkeypatch.setattr(child_reader, "BOOT", boot(small))
    kspace = noise(11, 2, 3, 4)
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=(3, 1, 2, 3), compression="gzip")
    np.testing.assert_array_equal(read_scan(path).kspace, kspace)
