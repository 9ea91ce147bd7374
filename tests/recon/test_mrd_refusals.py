from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.errors import ScanError
from recon.io.files import read_scan
from recon.io.read_limits import ReadLimits
from tests.mrd_files import header, lines, noise, readout, write

XML = header((8, 4, 1))


def plain(path: Path) -> Path:
    return write(path, XML, list(lines(noise(2, 8, 4))))


def refusal(path: Path, limits: ReadLimits | None = None) -> str:
    with pytest.raises(ScanError) as caught:
        read_scan(path, limits=limits or ReadLimits())
    return caught.value.code


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + XML, "header-doctype"),
        (XML[:-20], "invalid-mrd-header"),
        ("not xml", "invalid-mrd-header"),
        ("<other/>", "invalid-mrd-header"),
        (XML.replace("encodedSpace", "elsewhere"), "invalid-mrd-header"),
        (XML.replace("<x>8</x>", "<x>many</x>"), "invalid-mrd-header"),
        (XML.replace("<x>8</x>", "<x>-8</x>"), "invalid-mrd-header"),
        (XML.replace("<x>12.0</x>", "<x>nan</x>"), "invalid-mrd-header"),
        (header((8, 4, 1), trajectory="spiral"), "no-trajectory"),
        (header((8, 4, 1), trajectory="epi"), "unsupported-trajectory"),
        (header((8, 4, 1), trajectory="zigzag"), "unsupported-trajectory"),
        (header((8, 3, 1)), "line-outside"),
        (header((6, 4, 1)), "readout-outside"),
        (header((8, 16000, 16000), centre=(2, 0)), "too-large"),
    ],
)
def test_headers_that_cannot_be_right_are_refused(xml: str, code: str, tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "a.h5", xml, list(lines(noise(1, 8, 4))))) == code


def test_the_trajectory_is_refused_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.h5", header((8, 4, 1), trajectory="zigzag"), list(lines(noise(1, 8, 4)))
    )
    with pytest.raises(ScanError, match="zigzag"):
        read_scan(path)


def test_readouts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    mixed = [*lines(noise(2, 8, 3)), readout(noise(2, 6), 3)]
    assert refusal(write(tmp_path / "a.h5", XML, mixed)) == "readouts-differ"


def test_two_measurements_in_one_file_are_refused(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5")
    write(path, XML, list(lines(noise(2, 8, 4))), group="second")
    assert refusal(path) == "ambiguous-group"


def test_only_noise_is_no_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", XML, list(lines(noise(2, 8, 4), flags=(19,))))
    assert refusal(path) == "no-readouts"


def change(path: Path, edit: Callable[[np.ndarray], None]) -> Path:
    with h5py.File(path, "r+") as file:
        rows = file["dataset/data"][()]
        edit(rows)
        file["dataset/data"][()] = rows
    return path


def test_readouts_shorter_than_their_header_says_are_refused(tmp_path: Path) -> None:
    def edit(rows: np.ndarray) -> None:
        rows["data"][2] = rows["data"][2][:-2]

    assert refusal(change(plain(tmp_path / "a.h5"), edit)) == "readout-length"


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def edit(rows: np.ndarray) -> None:
        rows["data"][1][3] = np.nan

    assert refusal(change(plain(tmp_path / "a.h5"), edit)) == "not-finite"


def test_directions_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    def edit(rows: np.ndarray) -> None:
        rows["head"]["phase_dir"] = rows["head"]["read_dir"]

    assert refusal(change(plain(tmp_path / "a.h5"), edit)) == "geometry"


def test_headers_that_promise_more_than_is_allowed_are_refused_unread(tmp_path: Path) -> None:
    def edit(rows: np.ndarray) -> None:
        rows["head"]["number_of_samples"] = 65535
        rows["head"]["active_channels"] = 65535

    assert refusal(change(plain(tmp_path / "a.h5"), edit)) == "too-large"


def test_a_file_without_xml_is_refused(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["dataset/xml"]
    assert refusal(path) == "no-mrd-header"


def test_headers_of_other_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    vlen = h5py.vlen_dtype(np.float32)
    with h5py.File(path, "w") as file:
        kind = [("head", [("flags", "u8")]), ("traj", vlen), ("data", vlen)]
        file.create_dataset("dataset/data", (3,), kind)
        file.create_dataset("dataset/xml", (1,), h5py.string_dtype())
        file["dataset/xml"][0] = XML
    assert refusal(path) == "mrd-layout"


def test_waveforms_config_and_images_beside_the_readouts_do_no_harm(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        waveform = [("head", [("version", "u2")]), ("data", h5py.vlen_dtype(np.uint32))]
        file.create_dataset("dataset/waveforms", (2,), waveform)
        file.create_dataset("dataset/config", (1,), h5py.string_dtype())
        file.create_dataset("dataset/image_1/header", (1,), [("version", "u2"), ("p", "f4", (3,))])
        file.create_dataset("dataset/image_1/attributes", (1,), h5py.string_dtype())
    assert read_scan(path).kspace.shape == (1, 2, 8, 4)


def test_external_storage_is_refused_here_too(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file.create_dataset(
            "dataset/config", (8,), "u1", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        )
    assert refusal(path) == "external-storage"
