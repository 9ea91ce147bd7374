"""Hostile files, each refused by its own code before any value is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from recon.errors import ScanError
from recon.io.hdf5_safety import open_checked
from recon.io.read_limits import ReadLimits

LIMITS = ReadLimits(links=50, expansion_floor_bytes=1 << 20)
KSPACE = np.ones((1, 2, 4, 6), np.complex64)

Build = Callable[[h5py.File, Path], None]


def walk(path: Path, limits: ReadLimits = LIMITS) -> dict[str, tuple[int, ...]]:
    with open_checked(path, limits) as file:
        return {name: dataset.shape for name, dataset in file.datasets.items()}


def refusal(path: Path, limits: ReadLimits = LIMITS) -> str:
    with pytest.raises(ScanError) as caught:
        walk(path, limits)
    assert len(caught.value.message.split()) > 4, "a sentence says what is wrong and what to do"
    return caught.value.code


def external_storage(file: h5py.File, folder: Path) -> None:
    secret = folder / "secret"
    secret.write_bytes(b"x" * 64)
    file.create_dataset("kspace", (64,), "u1", external=[(str(secret), 0, 64)])


def external_link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["group/kspace"] = KSPACE
    file["door"] = h5py.ExternalLink(str(folder / "other.h5"), "/group")


def external_link_inside(file: h5py.File, folder: Path) -> None:
    external_link(file.create_group("plain/group"), folder)


def soft_link(file: h5py.File, folder: Path) -> None:
    file["data"] = KSPACE
    file["kspace"] = h5py.SoftLink("/data")


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "other.h5", "w") as other:
        other["kspace"] = KSPACE
    layout = h5py.VirtualLayout(KSPACE.shape, KSPACE.dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "kspace", KSPACE.shape)
    file.create_virtual_dataset("kspace", layout)


def terabytes(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (1000, 64, 4096, 4096), "c8", chunks=(1, 1, 64, 64))


def sparse(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (4, 8, 256, 256), "c8", chunks=(1, 1, 64, 64))


def gzip_bomb(file: h5py.File, folder: Path) -> None:
    zeros = np.zeros((16 << 20,), np.uint8)
    file.create_dataset("kspace", data=zeros, chunks=(1 << 20,), compression="gzip")


def gzip_bomb_beside_data(file: h5py.File, folder: Path) -> None:
    gzip_bomb(file, folder)
    file["ballast"] = np.ones(1 << 20, np.uint8)


def big_chunk(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (1, 1, 16384, 16384), "c8", chunks=(1, 1, 16384, 16384))


def deep(file: h5py.File, folder: Path) -> None:
    file.create_group("/".join("abcdefghij"))


def many(file: h5py.File, folder: Path) -> None:
    for number in range(51):
        file.create_group(f"g{number}")


def many_below(file: h5py.File, folder: Path) -> None:
    for number in range(51):
        file.create_group(f"g{number % 5}/h{number}")


def long_name(file: h5py.File, folder: Path) -> None:
    file["x" * 300] = KSPACE


def many_attributes(file: h5py.File, folder: Path) -> None:
    for number in range(65):
        file.attrs[f"a{number}"] = number


def reference_attribute(file: h5py.File, folder: Path) -> None:
    file.attrs["a"] = file.ref


def unknown_filter(file: h5py.File, folder: Path) -> None:
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_chunk((4,))
    creation.set_scaleoffset(2, 3)
    h5d.create(file.id, b"kspace", h5t.STD_I32LE, h5s.create_simple((8,)), creation)


def plugin_filter(file: h5py.File, folder: Path) -> None:
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_chunk((4,))
    creation.set_filter(32015, 1, (3,))  # zstd; optional, so the library need not have it
    h5d.create(file.id, b"kspace", h5t.STD_I32LE, h5s.create_simple((8,)), creation)


def references(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (1,), h5py.ref_dtype)[0] = file.ref


def region_references(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (1,), h5py.regionref_dtype)


def vlen_numbers(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (2,), h5py.vlen_dtype(np.float32))


def vlen_text(file: h5py.File, folder: Path) -> None:
    file["notes"] = "free text"


def nested_header(file: h5py.File, folder: Path) -> None:
    file["group/ismrmrd_header"] = "<a/>"


def opaque(file: h5py.File, folder: Path) -> None:
    file["kspace"] = np.zeros(3, "V8")


def other_compound(file: h5py.File, folder: Path) -> None:
    file["kspace"] = np.zeros(3, [("r", "f4"), ("i", "f4"), ("z", "f4")])


def uneven_complex(file: h5py.File, folder: Path) -> None:
    file["kspace"] = np.zeros(3, [("r", "f4"), ("i", "f8")])


def long_double(file: h5py.File, folder: Path) -> None:
    file["kspace"] = np.zeros(3, np.longdouble)


def other_enum(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (3,), h5py.enum_dtype({"RED": 0, "BLUE": 1}, "i1"))


def array_type(file: h5py.File, folder: Path) -> None:
    file.create_dataset("kspace", (3,), np.dtype(("f4", (4,))))


def named_type(file: h5py.File, folder: Path) -> None:
    file["kind"] = np.dtype("f4")


def readouts_at_the_root(file: h5py.File, folder: Path) -> None:
    vlen = h5py.vlen_dtype(np.float32)
    file.create_dataset("data", (1,), [("head", "i4"), ("traj", vlen), ("data", vlen)])


def readouts_of_texts(file: h5py.File, folder: Path) -> None:
    text = h5py.string_dtype()
    file.create_dataset("dataset/data", (1,), [("head", "i4"), ("traj", text), ("data", text)])


REFUSED: dict[Build, str] = {
    external_storage: "external-storage",
    external_link: "external-link",
    external_link_inside: "external-link",
    soft_link: "soft-link",
    virtual: "virtual-layout",
    terabytes: "too-large",
    sparse: "expands-too-much",
    gzip_bomb: "expands-too-much",
    gzip_bomb_beside_data: "expands-too-much",
    big_chunk: "chunk-too-large",
    deep: "too-deep",
    many: "too-many-objects",
    many_below: "too-many-objects",
    long_name: "object-name",
    many_attributes: "too-many-attributes",
    reference_attribute: "type-not-allowed",
    unknown_filter: "filter-not-allowed",
    plugin_filter: "filter-not-allowed",
    references: "type-not-allowed",
    region_references: "type-not-allowed",
    vlen_numbers: "type-not-allowed",
    vlen_text: "type-not-allowed",
    nested_header: "type-not-allowed",
    opaque: "type-not-allowed",
    other_compound: "type-not-allowed",
    uneven_complex: "type-not-allowed",
    long_double: "type-not-allowed",
    other_enum: "type-not-allowed",
    array_type: "type-not-allowed",
    named_type: "object-type",
    readouts_at_the_root: "type-not-allowed",
    readouts_of_texts: "type-not-allowed",
}


@pytest.mark.parametrize(
    ("build", "code"), REFUSED.items(), ids=[build.__name__ for build in REFUSED]
)
def test_hostile_file_is_refused(build: Build, code: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        build(file, tmp_path)
    assert refusal(path) == code


def test_datasets_are_limited_together(tmp_path: Path) -> None:
    path = tmp_path / "sum.h5"
    with h5py.File(path, "w") as file:
        for number in range(5):
            file[f"part{number}"] = np.ones(300, np.uint8)
    assert refusal(path, replace(LIMITS, declared_bytes=1000)) == "too-large"


def test_attribute_too_large(tmp_path: Path) -> None:
    path = tmp_path / "attribute.h5"
    with h5py.File(path, "w", libver="latest") as file:  # older formats stop at 64 KiB themselves
        file.create_dataset("kspace", data=KSPACE).attrs["a"] = np.zeros(10_000)
    assert refusal(path) == "attribute-too-large"


def test_small_bombs_add_up(tmp_path: Path) -> None:
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for number in range(4):
            zeros = np.zeros(2 << 20, np.uint8)
            file.create_dataset(f"d{number}", data=zeros, chunks=(2 << 20,), compression="gzip")
    assert refusal(path, replace(LIMITS, expansion_floor_bytes=4 << 20)) == "expands-too-much"


def test_slash_in_a_link_name_is_not_resolved(tmp_path: Path) -> None:
    path = tmp_path / "slash.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        file["door_kspace"] = KSPACE
    path.write_bytes(path.read_bytes().replace(b"door_kspace", b"door/kspace"))
    assert refusal(path) == "object-name"


def test_hard_link_cycles_and_second_names_end(tmp_path: Path) -> None:
    path = tmp_path / "cycle.h5"
    with h5py.File(path, "w") as file:
        file["a/kspace"] = KSPACE
        file["a/again"] = file["/"]
        file["a/self"] = file["a"]
        file["kspace"] = file["a/kspace"]
    assert walk(path) == {"kspace": KSPACE.shape, "a/kspace": KSPACE.shape}


@pytest.mark.parametrize(
    "kind",
    ["?", "i1", "u2", ">i8", "f2", "f4", ">f8", "c8", "c16", "S7", "real-imag"],
)
def test_plain_types_pass(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.h5"
    stored = np.dtype([("real", "f4"), ("imag", "f4")]) if kind == "real-imag" else np.dtype(kind)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((2, 3), stored), compression="lzf", shuffle=True)
        file.create_dataset("y", data=np.zeros(4, stored), compression="gzip", fletcher32=True)
        file["ismrmrd_header"] = "<a/>"
        file.attrs["text"] = "ä"
        file.attrs["number"] = 1.5
    assert walk(path) == {"x": (2, 3), "y": (4,), "ismrmrd_header": ()}


def test_what_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(b"")
    assert refusal(path) == "empty-file"
    path.write_bytes(b"PK\x03\x04 not this")
    assert refusal(path) == "not-hdf5"
    assert refusal(tmp_path) == "not-a-file"
    assert refusal(tmp_path / "absent.h5") == "unreadable"


@pytest.mark.parametrize("block", [512, 4096])
def test_a_block_of_the_users_own_before_the_file_is_passed_over(
    block: int, tmp_path: Path
) -> None:
    path = tmp_path / "block.h5"
    with h5py.File(path, "w", userblock_size=block) as file:
        file["kspace"] = KSPACE
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    assert walk(path) == {"kspace": KSPACE.shape}


def test_size_cap(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = KSPACE
    assert refusal(path, replace(LIMITS, file_bytes=100)) == "file-too-large"


def test_dimensions_that_overflow_64_bits_do_not_wrap(tmp_path: Path) -> None:
    """2^62 rows: a product of 64-bit integers would be small."""
    path = tmp_path / "overflow.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (12345, 6788), "u1", chunks=(1, 6788), maxshape=(None, 6788))
    old = struct.pack("<QQ", 12345, 6788)
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, struct.pack("<QQ", 1 << 62, 6788)))
    assert refusal(path) == "too-large"
