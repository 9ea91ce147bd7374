"""The form of training images on disk, and what a child process makes of hostile ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.errors import ScanError
from recon.io.read_limits import ReadLimits
from service.images.files import describe, write_images
from service.store.durable import beside

IMAGES = np.zeros((3, 8, 8), np.uint8)


def made(path: Path, **datasets: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ScanError) as caught:
        describe(path, **options)
    return caught.value.code


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "complex64"])
def test_written_images_are_described_as_they_are(tmp_path, kind):
    write_images(tmp_path / "a.h5", IMAGES.astype(kind), "ab12", (0.9, 1.1))
    found = describe(tmp_path / "a.h5", values=True)
    assert (found.kind, found.shape, found.type) == ("images", (3, 8, 8), kind)
    assert found.patients == ("ab12",) * 3
    assert found.pixel_mm == (0.9, 1.1)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ([7, 7, 8], ("7", "7", "8")),
        (np.array([b"a", b"a", b"b"]), ("a", "a", "b")),
        (["ä", "b", "c"], ("ä", "b", "c")),  # h5py stores these with variable length
    ],
)
def test_patients_are_texts_or_numbers(tmp_path, stored, read):
    path = made(tmp_path / "a.h5", images=IMAGES, patient=stored)
    assert describe(path).patients == read


def test_a_file_without_patients_says_so(tmp_path):
    assert describe(made(tmp_path / "a.h5", images=IMAGES, label=["x"] * 3)).patients is None


def test_kspace_is_told_from_images_with_its_patient(tmp_path):
    path = made(tmp_path / "a.h5", kspace=np.ones((2, 3, 8, 8), np.complex64))
    with h5py.File(path, "a") as file:
        file.attrs["patient_id"] = "p9"
    found = describe(path)
    assert (found.kind, found.shape, found.patient_id) == ("kspace", (2, 3, 8, 8), "p9")


@pytest.mark.parametrize(
    ("datasets", "code"),
    [
        ({"other": IMAGES}, "no-images"),
        ({"images": IMAGES.astype(np.int32)}, "images-type"),
        ({"images": IMAGES[0]}, "images-shape"),
        ({"images": IMAGES[:0]}, "images-shape"),
        ({"images": IMAGES, "patient": [1, 2]}, "patient-shape"),
        ({"images": IMAGES, "patient": [1.5, 2, 3]}, "patient-shape"),
        ({"images": IMAGES, "patient": ["x" * 300] * 3}, "text-too-large"),
        ({"images": h5py.SoftLink("/elsewhere")}, "link"),
        ({"images": h5py.ExternalLink("/etc/passwd", "/")}, "link"),
        ({"images": IMAGES, "patient": h5py.SoftLink("/images")}, "link"),
    ],
)
def test_what_is_no_set_of_training_images_is_refused(tmp_path, datasets, code):
    assert refusal(made(tmp_path / "a.h5", **datasets)) == code


def test_values_kept_in_another_file_are_refused(tmp_path):
    (tmp_path / "raw").write_bytes(bytes(IMAGES.size))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        external = [(str(tmp_path / "raw"), 0, IMAGES.size)]
        file.create_dataset("images", IMAGES.shape, np.uint8, external=external)
    assert refusal(tmp_path / "a.h5") == "external-storage"


@pytest.mark.parametrize("kind", ["float16", "complex64"])
def test_values_that_are_not_finite_are_found_wherever_they_are(tmp_path, kind):
    images = IMAGES.astype(kind)
    images[2, 7, 7] = np.nan
    path = made(tmp_path / "a.h5", images=images)
    assert refusal(path, values=True) == "not-finite"


def test_a_file_cut_short_is_refused(tmp_path):
    path = made(tmp_path / "a.h5", images=np.ones((20, 64, 64), np.float32))
    path.write_bytes(path.read_bytes()[:3000])
    assert refusal(path) == "unreadable"


def test_a_child_that_dies_of_a_file_is_a_refusal(tmp_path):
    path = made(tmp_path / "a.h5", images=np.ones((400, 256, 256), np.float32))
    starved = ReadLimits(memory_bytes=64 << 20)
    assert refusal(path, values=True, limits=starved) == "reader-crashed"


def broken_write(path: Path) -> None:
    with beside(path) as aside:
        aside.write_text("half")
        raise OSError("the disk is full")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("before")
    with pytest.raises(OSError, match="full"):
        broken_write(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.h5"]
    assert path.read_text() == "before"
