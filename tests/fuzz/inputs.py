"""Hostile inputs that know the structure of what they damage: HDF5, MRD streams, XML headers.

Every input follows from a seed and a number, and from the corpus: well-formed files and those that
were once found to do harm.
"""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CORPUS = Path(__file__).parent / "corpus"
SIGNATURES = (
    b"\x89HDF\r\n\x1a\n", b"TREE", b"HEAP", b"SNOD", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"FHDB",
    b"FHIB", b"BTHD", b"BTIN", b"BTLF", b"FSHD", b"FSSE", b"FAHD", b"FADB", b"EAHD", b"EAIB",
)  # fmt: skip
"""Of the structures inside HDF5; sizes, addresses and counts follow them."""
NUMBERS = (
    0,
    1,
    2,
    7,
    8,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)
TEXTS = (
    "", "0", "-1", "1e309", "NaN", "9" * 400, "0x10", " 4 ", "\u202e4", "4\n4", "&amp;", "𝟜",
    "a" * 5000,
)  # fmt: skip


def corpus(ending: str) -> list[bytes]:
    """Well-formed inputs of a kind, and those that once did harm."""
    return [file.read_bytes() for file in sorted(CORPUS.glob(f"*.{ending}"))]


def hdf5_file(rng: random.Random) -> bytes:
    """A file made to be strange, or a good one whose structures are damaged; often both."""
    content = _made(rng) if rng.random() < 0.5 else rng.choice(corpus("h5"))
    return _damaged_structure(content, rng) if rng.random() < 0.8 else content


def _made(rng: random.Random) -> bytes:
    """A file that h5py writes, with whatever the format allows where a scan is expected."""
    buffer = io.BytesIO()
    library = rng.choice(("earliest", "latest"))
    with h5py.File(buffer, "w", libver=library, userblock_size=rng.choice((0, 0, 512))) as file:
        _add_dataset(file, "kspace", rng)
        for name in ("mask", "noise", "coil_maps", "ismrmrd_header"):
            if rng.random() < 0.4:
                _add_dataset(file, name, rng)
        for _ in range(rng.randrange(3)):
            _add_something(file, rng)
    return buffer.getvalue()


def _add_dataset(file: Any, name: str, rng: random.Random) -> None:
    kinds: Sequence[Any] = (
        np.complex64, np.complex64, np.complex128, np.float32, ">c8", np.int8, "S7",
        h5py.string_dtype(), h5py.vlen_dtype(np.float32), h5py.ref_dtype,
        np.dtype([("r", "<f4"), ("i", "<f4")]), np.dtype([("r", "<f4"), ("i", "S3")]),
        h5py.enum_dtype({"a": 1}),
    )  # fmt: skip
    kind = np.complex64 if name == "kspace" and rng.random() < 0.6 else rng.choice(kinds)
    shape = tuple(
        rng.choice((0, 1, 2, 3, 8, 12)) for _ in range(rng.choice((0, 1, 2, 3, 4, 4, 4, 5)))
    )
    options: dict[str, Any] = {}
    if shape and all(shape) and rng.random() < 0.5:
        options["chunks"] = tuple(rng.randint(1, length) for length in shape)
        options["maxshape"] = tuple(rng.choice((length, None)) for length in shape)
        if rng.random() < 0.6:
            options["compression"] = rng.choice(("gzip", "lzf"))
        options["shuffle"] = rng.random() < 0.3
        options["fletcher32"] = rng.random() < 0.3
    try:
        dataset = file.create_dataset(name, shape, kind, **options)
        numeric = dataset.dtype.kind in "cfi"
        if numeric and dataset.size:
            values = np.frombuffer(rng.randbytes(8 * dataset.size), np.float64)
            with np.errstate(all="ignore"):
                fill = values if rng.random() < 0.1 else np.nan_to_num(values % 3.0)
                dataset[...] = fill.reshape(shape).astype(dataset.dtype)
        elif dataset.dtype.kind == "O" and not shape:
            dataset[()] = xml_header(rng)
    except (TypeError, ValueError, OSError, AttributeError):
        return  # this combination is not one that can be written


def _add_something(file: Any, rng: random.Random) -> None:
    name = rng.choice(("kspace", "mask", "more", "../up", "a" * 300, "dataset/data", "\x01", "."))
    choice = rng.randrange(7)
    try:
        if choice == 0:
            file[name] = h5py.SoftLink(rng.choice(("/kspace", "/nothing", "/" + name)))
        elif choice == 1:
            file[name] = h5py.ExternalLink(rng.choice(("/etc/passwd", "other.h5")), "/kspace")
        elif choice == 2:
            file[name] = file["/"]  # a loop
        elif choice == 3:
            group = file
            for _ in range(rng.randrange(1, 60)):
                group = group.create_group("g")
        elif choice == 4:
            file.attrs[name] = rng.choice((np.zeros(1000), "x" * 3000, np.void(b"abc"), 1 + 2j))
        elif choice == 5:
            layout = h5py.VirtualLayout((4, 4), np.complex64)
            layout[:2] = h5py.VirtualSource(rng.choice((".", "/etc/passwd")), "kspace", (2, 4))
            file.create_virtual_dataset(name, layout)
        else:
            file.create_dataset(name, (2, 2), "f4", external=[("/etc/hostname", 0, 16)])
    except (TypeError, ValueError, OSError, RuntimeError, KeyError):
        return


def _damaged_structure(content: bytes, rng: random.Random) -> bytes:
    """Numbers behind signatures changed, structures moved over each other, an end cut off."""
    damaged = bytearray(content)
    places = [match.start() for s in SIGNATURES for match in re.finditer(re.escape(s), content)]
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.choice(places) if places and rng.random() < 0.7 else rng.randrange(len(damaged))
        at = min(place + rng.randrange(4, 64), len(damaged) - 9)
        kind = rng.randrange(6)
        if at < 8:
            continue
        if kind == 0:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) % (1 << 8 * size)
            damaged[at : at + size] = number.to_bytes(size, "little")
        elif kind == 1:
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and places:  # an address of another structure
            damaged[at : at + 8] = rng.choice(places).to_bytes(8, "little")
        elif kind == 3 and len(places) > 1:
            other = rng.choice(places)
            damaged[place : place + 24] = damaged[other : other + 24]
        elif kind == 4:
            damaged[at : at + 8] = rng.randbytes(8)
        else:
            del damaged[-rng.randrange(1, len(damaged) // 2 + 1) :]
            if len(damaged) < 64:
                break
    return bytes(damaged)


def mrd_stream(rng: random.Random) -> bytes:
    """Messages of a good session left out, doubled, swapped, and changed in their fields."""
    messages = _messages(rng.choice(corpus("mrd")))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(messages))
        kind = rng.randrange(8)
        if kind == 0 and len(messages) > 1:
            del messages[at]
        elif kind == 1:
            messages.insert(rng.randrange(len(messages)), messages[at])
        elif kind == 2:
            other = rng.randrange(len(messages))
            messages[at], messages[other] = messages[other], messages[at]
        elif kind == 3:
            messages[at] = rng.choice(NUMBERS[:9]).to_bytes(4, "little")[:2] + messages[at][2:]
        elif kind == 4 and len(messages[at]) > 8:  # lengths and counts lie at the beginning
            changed = bytearray(messages[at])
            place = rng.randrange(2, min(len(changed) - 8, 342))
            size = rng.choice((1, 2, 4, 8))
            changed[place : place + size] = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(
                size, "little"
            )
            messages[at] = bytes(changed)
        elif kind == 5:
            messages[at] = _with_header(xml_header(rng))
        elif kind == 6:
            text = rng.choice(_PARAMETERS)(rng).encode()
            messages.insert(at, struct.pack("<HI", 5, len(text)) + text)
        else:
            messages[at] = messages[at][: rng.randrange(len(messages[at]) + 1)]
    content = b"".join(messages)
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def _asked(name: str, value: str) -> str:
    return f'{{"parameters": {{"{name}": {value}}}}}'


_PARAMETERS: Sequence[Callable[[random.Random], str]] = (
    lambda rng: _asked("numsamples", str(rng.choice((*TEXTS, *NUMBERS)))),
    lambda rng: _asked("other", "[" * rng.choice((10, 5000)) + "]" * 10),
    lambda rng: _asked(rng.choice(TEXTS), f'"{rng.choice(TEXTS)}"'),
    lambda rng: _asked("measurementid", f'"{rng.choice(TEXTS)}", "mode": "retrieve"'),
    lambda rng: rng.randbytes(30).decode("latin1"),
)


def _messages(content: bytes) -> list[bytes]:
    """The messages of a well-formed session."""
    found, at = [], 0
    while at < len(content):
        (number,) = struct.unpack_from("<H", content, at)
        if number == 1:
            size = 2 + 1024
        elif number in (2, 3, 5):
            size = 6 + struct.unpack_from("<I", content, at + 2)[0]
        elif number == 1008:
            (samples,) = struct.unpack_from("<H", content, at + 2 + 34)
            (channels,) = struct.unpack_from("<H", content, at + 2 + 38)
            size = 2 + 340 + 8 * samples * channels
        else:
            size = 2
        found.append(content[at : at + size])
        at += size
    return found


def _with_header(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return struct.pack("<HI", 3, len(content)) + content


def xml_header(rng: random.Random) -> str:
    """A header whose elements are left out, doubled, nested, and say what they should not."""
    text = rng.choice(corpus("xml")).decode()
    for _ in range(rng.choice((1, 1, 2, 4))):
        elements = list(re.finditer(r"<(\w+)>([^<>]*)</\1>", text))
        if not elements:
            break
        found = rng.choice(elements)
        name = found[1]
        kind = rng.randrange(8)
        if kind == 0:
            new = ""
        elif kind == 1:
            new = found[0] * rng.choice((2, 3, 200))
        elif kind in (2, 3):
            new = f"<{name}>{rng.choice((*TEXTS, *map(str, NUMBERS)))}</{name}>"
        elif kind == 4:
            depth = rng.choice((2, 100, 3000))
            new = f"<{name}>" * depth + f"</{name}>" * depth
        elif kind == 5:
            new = f"<{name} xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:nil='true'/>"
        elif kind == 6:
            new = f"<![CDATA[{found[2]}]]><!-- - -->{found[0]}"
        else:
            new = found[0][: rng.randrange(len(found[0]))]
        text = text[: found.start()] + new + text[found.end() :]
    if rng.random() < 0.1:
        text = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]>' + text
    if rng.random() < 0.05:
        text = "".join(rng.choice(text) for _ in range(200))
    return text
