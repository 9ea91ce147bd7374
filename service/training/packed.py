"""Training images in small files for a machine without a network, and back.

A pack is a sequence of records: four bytes with the length (little endian) of what follows, then
the name of the HDF5 file and the slice's label, each ended by a zero byte, then the slice as WebP.
Lossless by default; at quality 92 a slice takes a third of that and is off by 0.005 of the range.
"""

from __future__ import annotations

import io
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import ModelError

PACK_BYTES = 20 * 2**20
_MOST_RECORD = 64 * 2**20


class _Record(NamedTuple):
    name: str
    label: str
    image: bytes


def pack(files: Sequence[Path], out: Path, quality: int = 100, limit: int = PACK_BYTES) -> int:
    """Packs `shard_0.bin`, … in `out` of at most `limit` bytes; gives their number.

    Files hold `images` (slices, rows, columns) of uint8 and may have a `label` per slice. Raises
    ModelError for others.
    """
    out.mkdir(parents=True, exist_ok=True)
    number, handle = 0, (out / "shard_0.bin").open("wb")
    try:
        for record in (record for file in files for record in _records(file, quality)):
            content = b"\0".join([record.name.encode(), record.label.encode(), record.image])
            if handle.tell() and handle.tell() + len(content) + 4 > limit:
                handle.close()
                number += 1
                handle = (out / f"shard_{number}.bin").open("wb")
            handle.write(struct.pack("<I", len(content)) + content)
    finally:
        handle.close()
    return number + 1


def unpack(folder: Path, out: Path) -> list[Path]:
    """The HDF5 files of the packs in a folder. Raises ModelError for a pack that is cut off."""
    packs = sorted(folder.glob("shard_*.bin"), key=lambda path: int(path.stem.split("_")[1]))
    found: dict[str, list[_Record]] = defaultdict(list)
    for path in packs:
        with path.open("rb") as handle:
            for record in _read(handle, path):
                found[Path(record.name).name].append(record)
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as threads:  # decoding holds no interpreter lock
        for name, records in found.items():
            images = np.stack(list(threads.map(_decoded, records)))
            with h5py.File(out / name, "w") as file:
                file["images"] = images
                labels = [record.label for record in records]
                file.create_dataset("label", data=labels, dtype=h5py.string_dtype())
    return [out / name for name in found]


def _records(file: Path, quality: int) -> Iterator[_Record]:
    with h5py.File(file) as handle:
        images, labels = handle.get("images"), handle.get("label")
        if not isinstance(images, h5py.Dataset) or images.dtype != np.uint8 or images.ndim != 3:
            raise ModelError(
                "bad-data", f"{file.name} must hold 'images' of uint8 (slices, rows, columns)"
            )
        names = [""] * len(images) if labels is None else labels.asstr()[()]
        for image, label in zip(images, names, strict=True):
            encoded = io.BytesIO()
            picture = Image.fromarray(np.asarray(image)).convert("RGB")
            picture.save(encoded, "WEBP", lossless=quality >= 100, quality=quality, method=4)
            yield _Record(file.name, str(label), encoded.getvalue())


def _read(handle: BinaryIO, path: Path) -> Iterator[_Record]:
    while head := handle.read(4):
        size = int.from_bytes(head, "little")
        content = handle.read(size) if len(head) == 4 and size <= _MOST_RECORD else b""
        parts = content.split(b"\0", 2)
        if not content or len(content) < size or len(parts) < 3:
            raise ModelError("bad-data", f"{path.name} is cut off or no pack of images")
        yield _Record(parts[0].decode(), parts[1].decode(), parts[2])


def _decoded(record: _Record) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(record.image)).convert("L"))
