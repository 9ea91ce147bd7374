"""Damaged HDF5 files are refused in words; the server neither leaks nor stops.

`MRI_POSTERIOR_FUZZ=5000` in the environment sets how many there are.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from tests.service.live import HDF5, ended, note, serving, submitted

pytestmark = pytest.mark.slow  # whole servers started and killed: `make proofs`

FILES = int(os.environ.get("MRI_POSTERIOR_FUZZ", "60"))
CLIENTS = 4
READERS = 2
"""Processes that wait to read the next file."""


def originals(folder: Path, scan: Path) -> list[bytes]:
    """Valid files of several layouts: the mutations then reach several parsers."""
    rng = np.random.default_rng(0)
    shape = (2, 3, 16, 12)
    kspace = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    with h5py.File(folder / "plain.h5", "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = "<ismrmrdHeader/>"
        file.attrs["acquisition"] = "T1"
    with h5py.File(folder / "packed.h5", "w", libver="latest") as file:
        file.create_dataset(
            "kspace", data=kspace, chunks=(1, 1, 8, 8), compression="gzip", shuffle=True
        )
        file.create_group("more")["noise"] = kspace[0, :, 0]
    return [scan.read_bytes(), *((folder / f"{n}.h5").read_bytes() for n in ("plain", "packed"))]


def processes(api: psutil.Process) -> int:
    return sum(child.is_running() for child in api.children(recursive=True))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Flipped, overwritten, moved or missing bytes; structure lies in the first kilobytes."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(8, min(len(damaged), rng.choice((512, 4096, len(damaged)))))
        kind = rng.randrange(5)
        if kind == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            damaged[at : at + 8] = rng.choice(
                (b"\xff" * 8, b"\x00" * 8, rng.randbytes(8), (1 << 40).to_bytes(8, "little"))
            )
        elif kind == 3:
            start = rng.randrange(len(damaged))
            damaged[at : at + 16] = bytes(reversed(damaged[start : start + 16]))
        else:
            del damaged[-rng.randrange(1, len(damaged) // 2) :]
            if len(damaged) < 64:
                break
    return bytes(damaged) if damaged != content else mutated(content, rng)


def test_damaged_files_are_answered_in_words(tmp_path: Path, models: Path, scan: Path) -> None:
    sources = originals(tmp_path, scan)
    limit = {"requests_per_minute": 1_000_000}
    with serving(tmp_path / "data", models, **limit) as server, server.client() as client:
        api = psutil.Process(server.pid("api"))
        assert client.post("/v1/scans", content=scan.read_bytes()).status_code == 201

        def send(number: int) -> tuple[int, str]:
            rng = random.Random(number)
            content = mutated(rng.choice(sources), rng)
            answer = client.post("/v1/scans", content=content, headers=HDF5)
            kind = answer.json().get("type", "scan") if answer.content else ""
            if answer.status_code in (200, 201):
                client.delete(answer.headers["location"])
            return answer.status_code, kind

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(send, range(-8 * CLIENTS, 0)))  # what is made once is not a leak
            before = (api.num_fds(), api.num_threads(), processes(api))
            outcomes: Counter[tuple[int, str]] = Counter()
            for start in range(0, FILES, 500):
                outcomes += Counter(pool.map(send, range(start, min(start + 500, FILES))))
                note(f"{outcomes.total()} damaged files: {dict(outcomes.most_common())}")
            after = (api.num_fds(), api.num_threads(), processes(api))
        note(f"{FILES} files: {dict(outcomes.most_common())}, descriptors {before} -> {after}")
        assert {status for status, _ in outcomes} <= {200, 201, 413, 422}
        assert after[0] <= before[0] + 4
        assert after[2] <= max(before[2], READERS)
        assert list((server.data / "incoming").iterdir()) == []
        assert len(list((server.data / "scans").rglob("*.h5"))) == 1
        assert server.pid("api") == api.pid  # it was never started again
        with server.client() as fresh:
            assert ended(fresh, submitted(fresh, scan))["state"] == "succeeded"


@pytest.mark.slow
def test_damaged_values_end_the_job_in_words(tmp_path: Path, models: Path, scan: Path) -> None:
    """Files that pass the first look are reconstructed; whatever happens has a name."""
    sources = originals(tmp_path, scan)
    with serving(tmp_path / "data", models, max_active_per_key=10_000) as server:
        with server.client() as client:
            jobs = []
            for number in range(max(20, FILES // 50)):
                rng = random.Random(number)
                content = mutated(rng.choice(sources), rng)
                answer = client.post(
                    "/v1/reconstructions",
                    params={"model": "tiny", "preset": "fast", "self_check": "false"},
                    content=content,
                )
                assert answer.status_code in (202, 422), answer.text
                if answer.status_code == 202:
                    jobs.append(answer.json())
            ends = Counter(
                (job["state"], (job["error"] or {}).get("reason"))
                for job in (ended(client, job) for job in jobs)
            )
        note(f"{ends}")
        kinds = {state for state, _ in ends}
        assert kinds <= {"succeeded", "failed"}
        assert "/problems/internal" not in str(server.log)
