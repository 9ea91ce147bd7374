"""The walk that a hostile HDF5 file must survive before one value of it is read.

HDF5 can read other files in its own name (external storage, external links, virtual datasets),
can declare terabytes in a kilobyte, and can loop. No switch of the library forbids any of it, so
every link, layout, filter, type and size is looked at first, with the low-level interface, and
only the datasets found that way are handed on. Run this in the child of `recon.io.child_reader`:
the library itself has had memory errors in decoding metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from recon.errors import ScanError
from recon.io.mrd_hdf5 import belongs_to_mrd
from recon.io.read_limits import ReadLimits, check_signature

HEADER = "ismrmrd_header"
"""The one dataset outside an MRD group that may hold a variable-length string."""

_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
_LAYOUTS = {h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED}
_COMPLEX_NAMES = {(b"r", b"i"), (b"real", b"imag")}


@dataclass(frozen=True)
class CheckedFile:
    """The datasets that passed, by path without the leading slash, and the root group."""

    root: h5py.Group
    datasets: dict[str, h5py.Dataset]


@contextmanager
def open_checked(path: Path, limits: ReadLimits) -> Iterator[CheckedFile]:
    """Open read-only and walk everything. Raises ScanError, or what h5py raises on damage."""
    size = check_signature(path, limits)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    file = h5f.open(bytes(path), h5f.ACC_RDONLY, fapl=access)
    try:
        walk = _Walk(limits, size)
        root = h5g.open(file, b"/")
        walk.enter(root)
        datasets = {name: h5py.Dataset(found) for name, found in walk.datasets.items()}
        yield CheckedFile(h5py.Group(root), datasets)
    finally:
        file.close()


@dataclass
class _Walk:
    """State of one depth-first walk; `datasets` holds what passed."""

    limits: ReadLimits
    file_size: int
    datasets: dict[str, h5d.DatasetID] = field(default_factory=dict)
    _seen: dict[tuple[int, int], h5d.DatasetID | None] = field(default_factory=dict)
    _links: int = 0
    _declared: int = 0

    def enter(self, root: h5g.GroupID) -> None:
        self._is_new(root)
        check_attributes(root, "/", self.limits)
        pending = [(root, "", 0)]
        while pending:
            group, prefix, depth = pending.pop()
            for name in self._link_names(group):
                member = h5o.open(group, name)
                path = prefix + _text(name)
                if isinstance(member, h5d.DatasetID):
                    self._add_dataset(member, path)
                elif isinstance(member, h5g.GroupID):
                    if self._is_new(member):  # else a cycle or a second name: walked already
                        self._check_depth(path, depth + 1)
                        check_attributes(member, path, self.limits)
                        pending.append((member, path + "/", depth + 1))
                else:
                    raise ScanError(
                        "object-type",
                        f"'{path}' is neither a group nor a dataset; save the file without it",
                    )

    def _link_names(self, group: h5g.GroupID) -> list[bytes]:
        """Names of hard links only; nothing is opened before all links of a group are known."""
        left = self.limits.links - self._links
        names: list[bytes] = []

        def collect(name: bytes) -> bool | None:
            names.append(name)
            return True if len(names) > left else None  # anything but None ends the iteration

        group.links.iterate(collect)
        if len(names) > left:
            raise ScanError(
                "too-many-objects",
                f"the file holds more than {self.limits.links} objects; keep only the scan",
            )
        self._links += len(names)
        for name in names:
            self._check_link(group, name)
        return names

    def _check_link(self, group: h5g.GroupID, name: bytes) -> None:
        # A slash would make the library resolve the name as a path, through links not looked at.
        if len(name) > self.limits.name_bytes or b"/" in name or name in (b"", b"."):
            raise ScanError(
                "object-name",
                "a name in the file is empty, too long or holds a slash; rename that object",
            )
        kind = group.links.get_info(name).type
        if kind == h5l.TYPE_HARD:
            return
        code = {h5l.TYPE_SOFT: "soft-link", h5l.TYPE_EXTERNAL: "external-link"}.get(kind, "link")
        raise ScanError(
            code,
            f"'{_text(name)}' is a {code.replace('-', ' ')} and not data; "
            "save the file with the data itself in that place",
        )

    def _check_depth(self, path: str, depth: int) -> None:
        if depth > self.limits.depth:
            raise ScanError(
                "too-deep",
                f"groups are nested deeper than {self.limits.depth} at '{path[:80]}…'; "
                "keep the data near the root",
            )

    def _is_new(self, member: h5g.GroupID) -> bool:
        info = h5o.get_info(member)
        key = (info.fileno, info.addr)
        new = key not in self._seen
        self._seen.setdefault(key, None)
        return new

    def _add_dataset(self, dataset: h5d.DatasetID, path: str) -> None:
        info = h5o.get_info(dataset)
        known = self._seen.get((info.fileno, info.addr))
        if known is None:  # a second name of the same data is checked and counted once
            self._declared += check_dataset(dataset, path, self.limits)
            check_attributes(dataset, path, self.limits)
            _check_total(self._declared, self.file_size, self.limits)
            known = dataset
        self._seen[info.fileno, info.addr] = self.datasets[path] = known


def check_dataset(dataset: h5d.DatasetID, path: str, limits: ReadLimits) -> int:
    """Logical bytes of a dataset that is safe to read; ScanError otherwise."""
    creation = dataset.get_create_plist()
    # Storage first: asking a virtual dataset for its shape can open the files it refers to.
    _check_storage(creation, path)
    _check_filters(creation, path)
    kind = dataset.get_type()
    _check_type(kind, path, is_header=path == HEADER)
    if dataset.get_space().get_simple_extent_type() == h5s.NULL:
        return 0
    declared = math.prod(dataset.shape) * kind.get_size()
    if declared > limits.declared_bytes:
        raise ScanError(
            "too-large",
            f"'{path}' declares {declared} bytes, more than {limits.declared_bytes}; "
            "split the scan",
        )
    if creation.get_layout() == h5d.CHUNKED:
        chunk = math.prod(creation.get_chunk()) * kind.get_size()
        if chunk > limits.chunk_bytes:
            raise ScanError(
                "chunk-too-large",
                f"'{path}' has chunks of {chunk} bytes, more than {limits.chunk_bytes}; "
                "save it with smaller chunks",
            )
    _check_expansion(f"'{path}'", declared, dataset.get_storage_size(), limits)
    return declared


def _check_storage(creation: h5p.PropDCID, path: str) -> None:
    if creation.get_external_count() != 0:
        raise ScanError(
            "external-storage",
            f"the values of '{path}' are kept in another file; save them inside this one",
        )
    layout = creation.get_layout()
    if layout == h5d.VIRTUAL:
        raise ScanError(
            "virtual-layout",
            f"'{path}' is a virtual dataset made of other datasets; save a plain copy",
        )
    if layout not in _LAYOUTS:
        raise ScanError("layout", f"'{path}' has an unknown storage layout; save a plain copy")


def _check_filters(creation: h5p.PropDCID, path: str) -> None:
    for index in range(creation.get_nfilters()):
        identifier = creation.get_filter(index)[0]
        if identifier not in _FILTERS:
            raise ScanError(
                "filter-not-allowed",
                f"'{path}' uses HDF5 filter {identifier}; "
                "save it with gzip, lzf, shuffle, fletcher32 or none",
            )


def _check_total(declared: int, file_size: int, limits: ReadLimits) -> None:
    if declared > limits.declared_bytes:
        raise ScanError(
            "too-large",
            f"the datasets together declare more than {limits.declared_bytes} bytes; "
            "split the scan",
        )
    # Chunks may lie about their size or share one place; the file cannot hold more than it is.
    _check_expansion("the file", declared, file_size, limits)


def _check_expansion(what: str, declared: int, stored: int, limits: ReadLimits) -> None:
    if declared > limits.expansion_floor_bytes and declared > limits.expansion * stored:
        raise ScanError(
            "expands-too-much",
            f"{what} would expand from {stored} to {declared} bytes; if that is meant, "
            "save it without compression and with every value written",
        )


def check_attributes(holder: h5g.GroupID | h5d.DatasetID, path: str, limits: ReadLimits) -> None:
    """Raise ScanError when attributes are too many, too large or of a type that is not read."""
    count = h5a.get_num_attrs(holder)
    if count > limits.attributes:
        raise ScanError(
            "too-many-attributes",
            f"'{path}' has {count} attributes, more than {limits.attributes}; remove some",
        )
    for index in range(count):
        attribute = h5a.open(holder, index=index)
        if attribute.get_storage_size() > limits.attribute_bytes:
            raise ScanError(
                "attribute-too-large",
                f"an attribute of '{path}' has more than {limits.attribute_bytes} bytes; remove it",
            )
        _check_type(attribute.get_type(), f"{path}@{_text(attribute.name)}", is_header=True)


def _check_type(kind: h5t.TypeID, path: str, *, is_header: bool) -> None:
    if belongs_to_mrd(kind, path):
        return
    if isinstance(kind, h5t.TypeStringID):
        allowed = is_header or not kind.is_variable_str()
    else:
        allowed = _is_number(kind) or _is_bool(kind) or _is_complex(kind)
    if not allowed:
        raise ScanError(
            "type-not-allowed",
            f"'{path}' has a type that is not read; save it as integers, floats, booleans, "
            "complex numbers or fixed-length text",
        )


def _is_number(kind: h5t.TypeID) -> bool:
    return isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID) and kind.get_size() <= 8


def _is_bool(kind: h5t.TypeID) -> bool:
    if not isinstance(kind, h5t.TypeEnumID) or kind.get_size() != 1:
        return False
    members = [
        (kind.get_member_name(index), kind.get_member_value(index))
        for index in range(min(kind.get_nmembers(), 3))
    ]
    return members == [(b"FALSE", 0), (b"TRUE", 1)]


def _is_complex(kind: h5t.TypeID) -> bool:
    if not isinstance(kind, h5t.TypeCompoundID) or _member_names(kind) not in _COMPLEX_NAMES:
        return False
    real, imaginary = (kind.get_member_type(index) for index in range(2))
    return isinstance(real, h5t.TypeFloatID) and _is_number(real) and real.equal(imaginary)


def _member_names(kind: h5t.TypeCompoundID) -> tuple[bytes, ...]:
    return tuple(kind.get_member_name(index) for index in range(min(kind.get_nmembers(), 4)))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
