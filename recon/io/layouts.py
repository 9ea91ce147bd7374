"""Layouts of k-space in files of arrays: who writes which, and how their axes are named.

Each is known by what a file holds, so that nobody has to name it; `--layout` names one all the
same, and `--axes` says how the axes of any other array run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recon.errors import ScanError

Axes = tuple[str, ...]

AXES = (
    "slice", "coil", "row", "column", "partition", "contrast", "phase", "repetition", "set",
    "average", "part", "coilpart",
)  # fmt: skip
"""What an axis counts: slices, coils, rows (the readout) and columns (the phase encoding);
partitions, the second phase encoding of a volume, still in k-space; contrasts, phases, repetitions
and sets, images of their own among which `select` chooses; averages of one image, which are
averaged; real and imaginary parts (part), or both for each coil in turn (coilpart)."""

FASTMRI: Axes = ("slice", "coil", "row", "column")
_SINGLE: Axes = ("slice", "row", "column")
_PROSTATE: Axes = ("average", "slice", "coil", "row", "column")
_SKM_TEA: Axes = ("slice", "row", "column", "contrast", "coil")
_CALGARY: Axes = ("slice", "row", "column", "coilpart")
_MATLAB: dict[int, Axes] = {
    3: ("slice", "column", "row"),
    4: ("slice", "coil", "column", "row"),
    5: ("phase", "slice", "coil", "column", "row"),
    6: ("set", "phase", "slice", "coil", "column", "row"),
}
_SINGLE_MATLAB: dict[int, Axes] = {3: _MATLAB[3], 4: ("phase", "slice", "column", "row")}
_CMR = re.compile(r"^(kspace|kdata|kus)(_(single_)?(full|sub\w*|kt\w+|us\w*))?$")
BART: Axes = (
    "row", "column", "partition", "coil", "", "contrast", "", "", "", "", "phase", "repetition",
    "", "slice", "average", "",
)  # fmt: skip
"""What BART's sixteen dimensions count; the others must be one."""


@dataclass(frozen=True)
class Entry:
    """One array of a file."""

    shape: tuple[int, ...]
    kind: str
    """Of its numbers, as NumPy names them: c complex, f floating point, …"""


@dataclass(frozen=True)
class Listing:
    """What a file holds, without one value of it."""

    arrays: Mapping[str, Entry]
    matlab: bool = False
    """Whether axes come in MATLAB's order, the reverse of ours."""

    def kspace(self, dimensions: int, kind: str = "c") -> bool:
        """Whether there is an array 'kspace' of so many axes."""
        found = self.arrays.get("kspace")
        return found is not None and (len(found.shape), found.kind) == (dimensions, kind)


@dataclass(frozen=True)
class Source:
    """Where k-space is in a file, and how it lies there."""

    dataset: str
    axes: Axes
    calibration: str | None = None
    """Array of lines for calibration: slices, coils, rows, columns."""
    centred: bool = True
    """Whether zero frequency and origin are in the middle; else they are moved there unasked."""


@dataclass(frozen=True)
class Layout:
    """One way in which k-space is stored."""

    name: str
    sentence: str
    find: Callable[[Listing], Source | None]
    """Where k-space is, in files of this layout; None in others."""


def source_in(listing: Listing, layout: str | None, axes: Axes | None) -> tuple[str, Source]:
    """Name of the layout of a file, and where its k-space is.

    Raises ScanError where there is none of the layout asked for, or of any.
    """
    if axes is not None:
        return "axes", Source(_only_array(listing), axes)
    if layout is not None:
        known = {known.name: known for known in LAYOUTS}
        if layout not in known:
            raise ScanError("layout", f"'{layout[:32]}' is no layout; there are {', '.join(known)}")
        source = known[layout].find(listing)
        if source is None:
            raise ScanError(
                "layout", f"this is not {known[layout].sentence}; {contents_of(listing)}"
            )
        return layout, source
    for candidate in LAYOUTS:
        source = candidate.find(listing)
        if source is not None:
            return candidate.name, source
    raise no_kspace(listing)


def parse_axes(text: str) -> tuple[str, ...]:
    """`slice,row,column,coil` as names. Raises ScanError."""
    names = tuple(name.strip() for name in text.split(","))
    wrong = [name[:32] for name in names if name not in AXES]
    if wrong:
        raise ScanError("axes", f"'{wrong[0]}' is no axis; there are {', '.join(AXES)}")
    return names


def no_kspace(listing: Listing) -> ScanError:
    """Where k-space is in none of the known places."""
    if "kspace" in listing.arrays:
        found = listing.arrays["kspace"]
        return ScanError(
            "kspace-shape",
            "'kspace' must be complex, (slices, coils, rows, columns) or single-coil "
            f"(slices, rows, columns), not {_NUMBERS.get(found.kind, found.kind)} {found.shape}; "
            "name its axes with --axes where they are others",
        )
    return ScanError(
        "no-kspace",
        f"the file holds no k-space in a known place: {contents_of(listing)}; name the axes of an "
        "array with --axes, or export it in the fastMRI layout, as 'kspace'",
    )


def contents_of(listing: Listing) -> str:
    """The arrays of a file, the first few, for people."""
    named = [f"'{name[:40]}' {entry.shape}" for name, entry in listing.arrays.items()]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"it holds {', '.join(named[:_NAMED])}{more}" if named else "it holds no array"


def bart_axes(shape: tuple[int, ...]) -> Axes:
    """Names of the dimensions of a BART file that are longer than one, and of the first two.

    Raises ScanError where another dimension than those of k-space is longer than one.
    """
    names = [name if size > 1 or at < 2 else "" for at, (name, size) in enumerate(_padded(shape))]
    return tuple(name for name in names if name)


def _padded(shape: tuple[int, ...]) -> list[tuple[str, int]]:
    pairs = list(zip(BART, (*shape, *(1 for _ in range(16 - len(shape)))), strict=True))
    for at, (name, size) in enumerate(pairs):
        if size > 1 and not name:
            raise ScanError(
                "bart-dimension",
                f"dimension {at} of the BART file has {size} entries; k-space has rows, columns, "
                "partitions, coils, and images along dimensions 5, 10, 11, 13 and 14",
            )
    return pairs


def _only_array(listing: Listing) -> str:
    if "kspace" in listing.arrays:
        return "kspace"
    candidates = [n for n, e in listing.arrays.items() if e.kind == "c" and len(e.shape) > 1]
    candidates = candidates or [n for n, e in listing.arrays.items() if len(e.shape) > 2]
    if len(candidates) != 1:
        raise ScanError(
            "no-kspace",
            f"which array is k-space is not clear: {contents_of(listing)}; name it 'kspace'",
        )
    return candidates[0]


def _prostate(listing: Listing) -> Source | None:
    if not listing.kspace(5) or "calibration_data" not in listing.arrays:
        return None
    if "phase_correction" in listing.arrays or "coil_sens_maps" in listing.arrays:
        raise ScanError(
            "unsupported-trajectory",
            "this is diffusion-weighted echo-planar k-space of fastMRI prostate, whose readouts "
            "are ramp-sampled; regrid and phase-correct it first",
        )
    return Source("kspace", _PROSTATE, calibration="calibration_data")


def _skm_tea(listing: Listing) -> Source | None:
    if not listing.kspace(5) or "target" not in listing.arrays:
        return None
    return Source("kspace", _SKM_TEA)


def _calgary(listing: Listing) -> Source | None:
    """Real numbers, and in the last place pairs of coils' parts: an axis shorter than the image."""
    if not listing.kspace(4, "f"):
        return None
    *image, pairs = listing.arrays["kspace"].shape[1:]
    if pairs % 2 or pairs > _MOST_PARTS or min(image) <= pairs:
        return None
    return Source("kspace", _CALGARY, centred=False)


def _cmrxrecon(listing: Listing) -> Source | None:
    if not listing.matlab:
        return None
    for name, entry in listing.arrays.items():
        found = _CMR.match(name)
        table = _SINGLE_MATLAB if found and found.group(3) else _MATLAB
        if found and entry.kind == "c" and len(entry.shape) in table:
            return Source(name, table[len(entry.shape)])
    return None


def _fastmri(listing: Listing) -> Source | None:
    if listing.kspace(4):
        return Source("kspace", FASTMRI)
    return Source("kspace", _SINGLE) if listing.kspace(3) else None


_NAMED = 6
_MOST_PARTS = 128
_NUMBERS = {"f": "real", "i": "integer", "u": "integer", "b": "boolean", "c": "complex"}
LAYOUTS = (
    Layout(
        "cmrxrecon",
        "CMRxRecon: MATLAB 7.3, frames, slices, coils; every frame an image",
        _cmrxrecon,
    ),
    Layout(
        "fastmri-prostate",
        "fastMRI prostate T2: averages on alternate lines, calibration lines apart",
        _prostate,
    ),
    Layout(
        "skm-tea", "SKM-TEA: both echoes of a hybrid volume, slices along the readout", _skm_tea
    ),
    Layout(
        "calgary-campinas",
        "Calgary-Campinas: parts of the coils in turn, slices along the readout",
        _calgary,
    ),
    Layout("fastmri", "fastMRI, multi- or single-coil, and M4Raw", _fastmri),
)
