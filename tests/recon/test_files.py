"""Scans, masks and arrays on disk: round trips, what is refused, and real files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recon.errors import ScanError
from recon.io.files import read_array, read_mask, read_scan, write_scan
from recon.scan import Geometry, Scan
from tests.recon.scan_files import HEADER, assert_same, noise, refusal, store

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "scans"


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)]),
    pattern=st.sampled_from(["columns", "rows", "both", "points"]),
    extras=st.booleans(),
    seed=st.integers(0, 999),
)
def test_scan_round_trip(
    shape: tuple[int, int, int, int], pattern: str, extras: bool, seed: int, tmp_path: Path
) -> None:
    slices, coils, rows, columns = shape
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, columns), bool)
    if pattern in ("columns", "both"):
        mask &= rng.random(columns) < 0.5
    if pattern in ("rows", "both"):
        mask &= rng.random((rows, 1)) < 0.5
    if pattern == "points":
        mask &= rng.random((rows, columns)) < 0.5
    mask[rows // 2, columns // 2] = True
    scan = Scan(
        kspace=noise(*shape, seed=seed) * mask,
        mask=mask,
        noise_samples=noise(coils, 7) if extras else None,
        coil_maps=noise(*shape) if extras else None,
        geometry=Geometry((220.0, 200.5, 5.0), (4, 5)) if extras else Geometry(),
        header=HEADER if extras else None,
        attributes={"acquisition": "T2 ä", "acceleration": 4, "max": 0.25} if extras else {},
    )
    path = tmp_path / "scan.h5"
    truth = noise(slices, rows, columns)
    write_scan(path, scan, {"image": truth})
    found = read_scan(path)
    assert len(found.sha256) == 64
    assert_same(scan, replace(found, sha256=""))
    assert list(tmp_path.iterdir()) == [path]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["image"][()], truth)


@pytest.mark.parametrize("kind", ["c8", "c16", ">c8", "real-imag"])
def test_kspace_types(kind: str, tmp_path: Path) -> None:
    kspace = noise(3, 5, 4)
    if kind == "real-imag":
        stored = np.empty(kspace.shape, [("real", "f4"), ("imag", "f4")])
        stored["real"], stored["imag"] = kspace.real, kspace.imag
    else:
        stored = kspace.astype(kind)
    scan = read_scan(store(tmp_path / "scan.h5", kspace=stored))
    np.testing.assert_array_equal(scan.kspace, kspace[:, None])
    assert scan.mask.all()
    assert not scan.kspace.flags.writeable


def test_attributes_are_numbers_and_short_texts_without_identity(tmp_path: Path) -> None:
    path = store(tmp_path / "scan.h5", kspace=noise(1, 1, 4, 4))
    with h5py.File(path, "a") as file:
        file.attrs.update(
            {"acquisition": "T1", "max": 2.5, "Patient_ID": "X", "patient_name": "Y"}
            | {"list": [1, 2], "long": "x" * 300, "norm": np.array([3]), "bytes": np.bytes_(b"b")}
        )
    assert read_scan(path).attributes == {
        "acquisition": "T1",
        "max": 2.5,
        "norm": 3,
        "bytes": "b",
    }


@pytest.mark.parametrize(
    ("datasets", "code"),
    [
        ({"other": np.ones(3)}, "no-kspace"),
        ({"kspace": np.ones((2, 4, 4), np.float32)}, "kspace-shape"),
        ({"kspace": noise(4, 4)}, "kspace-shape"),
        ({"kspace": noise(1, 1, 1, 4, 4)}, "kspace-shape"),
        ({"kspace": np.zeros((1, 0, 4, 4), np.complex64)}, "empty-dataset"),
        ({"kspace": np.zeros((1, 1, 4, 4), np.complex64)}, "empty-kspace"),
        ({"kspace": h5py.Empty("c8")}, "empty-dataset"),
        ({"kspace": np.full((1, 1, 4, 4), np.nan, np.complex64)}, "not-finite"),
        ({"kspace": np.full((1, 1, 4, 4), 1e200 + 0j)}, "not-finite"),
        ({"kspace": np.array([b"text"])}, "dataset-type"),
        ({"kspace": noise(1, 1, 4, 5), "mask": np.ones(6)}, "mask-shape"),
        ({"kspace": noise(1, 1, 4, 5), "mask": np.zeros(5)}, "empty-mask"),
        ({"kspace": noise(1, 1, 4, 5), "mask": np.full(5, 0.5)}, "mask-values"),
        ({"kspace": noise(1, 1, 4, 5), "mask": np.full(5, np.nan)}, "mask-values"),
        ({"kspace": noise(1, 2, 4, 5), "noise": noise(3, 7)}, "noise-shape"),
        ({"kspace": noise(1, 2, 4, 5), "noise": noise(2, 7) * np.nan}, "not-finite"),
        ({"kspace": noise(1, 2, 4, 5), "coil_maps": noise(2, 4, 5)}, "maps-shape"),
        ({"kspace": noise(1, 2, 4, 5), "ismrmrd_header": "<a>"}, "header-invalid"),
        ({"kspace": noise(1, 2, 4, 5), "ismrmrd_header": b"\xff\xfe"}, "text-encoding"),
        ({"kspace": noise(1, 2, 4, 5), "ismrmrd_header": [b"a", b"b"]}, "text-shape"),
        ({"kspace": noise(1, 2, 4, 5), "ismrmrd_header": "x" * (1 << 21)}, "text-too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_content_is_refused(datasets: dict[str, Any], code: str, tmp_path: Path) -> None:
    assert refusal(store(tmp_path / "scan.h5", **datasets)) == code


def test_read_mask(tmp_path: Path) -> None:
    mask = np.array([[True, False], [True, True]])
    np.save(tmp_path / "mask.npy", mask.astype(np.float32))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy"), mask)
    found = read_mask(store(tmp_path / "mask.h5", mask=mask.astype("u1")))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_read_mask_refuses(tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "values.npy", np.array([0, 2]))
    whole = tmp_path / "whole.npy"
    np.save(whole, np.ones(100))
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:-8])
    (tmp_path / "huge.npy").write_bytes(
        whole.read_bytes().replace(b"(100,)", b"(10000000000000000,)").replace(b" " * 14, b"", 1)
    )
    (tmp_path / "junk.npy").write_bytes(b"junk")
    (tmp_path / "mask.txt").write_text("1")
    with (tmp_path / "large.npy").open("wb") as file:
        file.truncate((64 << 20) + 1)
    os.mkfifo(tmp_path / "pipe.npy")
    store(tmp_path / "none.h5", other=1)
    for name, code in {
        "pickle.npy": "array-file",
        "text.npy": "array-type",
        "values.npy": "mask-values",
        "cut.npy": "array-file",
        "huge.npy": "array-file",
        "junk.npy": "array-file",
        "large.npy": "file-too-large",
        "mask.txt": "mask-format",
        "pipe.npy": "not-a-file",
        "absent.npy": "not-a-file",
        "none.h5": "no-dataset",
    }.items():
        with pytest.raises(ScanError) as caught:
            read_mask(tmp_path / name)
        assert caught.value.code == code, name


def test_read_array(tmp_path: Path) -> None:
    path = store(tmp_path / "a.h5", number=3.5, image=noise(2, 3), bad=np.array([np.nan]))
    path_nested = store(tmp_path / "b.h5", **{"group/image": noise(2, 3)})
    assert read_array(path, "number") == 3.5
    np.testing.assert_array_equal(read_array(path, "image"), noise(2, 3))
    np.testing.assert_array_equal(read_array(path_nested, "group/image"), noise(2, 3))
    for name, code in {"bad": "not-finite", "absent": "no-dataset", "/image": "no-dataset"}.items():
        with pytest.raises(ScanError) as caught:
            read_array(path, name)
        assert caught.value.code == code


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/scans is absent")


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "sampled"),
    [
        ("brain_t1_8ch", (1, 8, 230, 180), 1.0),
        ("brain_wrap_8ch", (1, 8, 320, 168), 1.0),
        ("head_t1_sagittal_1ch", (1, 1, 256, 256), 1.0),
        ("brain_poisson_r8_8ch", (1, 8, 230, 180), 0.12434782608695652),
        ("brain_ge_4ch_filtered", (1, 4, 256, 256), 1.0),
        ("brain_mprage_4ch_filtered", (1, 4, 256, 256), 1.0),
    ],
)
def test_real_scans_are_read(name: str, shape: tuple[int, ...], sampled: float) -> None:
    scan = read_scan(SHARED / f"{name}.h5")
    assert scan.kspace.shape == shape
    assert scan.mask.mean() == pytest.approx(sampled)
