"""The fastMRI layout: from the arrays, texts and attributes of a file to a `Scan`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.conventions import centred, require_centred, require_coil_axis
from recon.io.mrd_header import refuse_document_type
from recon.io.mrd_volumes import cut
from recon.planes import ATTRIBUTE
from recon.scan import Geometry, Scan

ARRAYS = ("kspace", "mask", "noise", "coil_maps", "calibration")
HEADER = "ismrmrd_header"

_STRAY_ZEROS = 1e-3
"""Share of samples that may be exactly zero by rounding without telling of a sampling pattern."""
_ATTRIBUTE_CHARACTERS = 256
_AGREES = 0.02
"""By how much fields of view and matrices may differ: headers round."""
_CURE = (
    "give --fftshift to move it there, or --no-fftshift if this is meant; where lines of a "
    "partial acquisition are left out, fill them with zeros"
)


def scan_from_layout(
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, str | int | float],
    header: str | None,
    mask: NDArray[Any] | None,
    sha256: str,
    fftshift: bool | None = None,
) -> Scan:
    """Check and convert. `mask` wins over the file's own, which wins over the zeros of k-space.

    `fftshift` as `recon.io.files.read_scan` takes it. The k-space array is masked in place. Raises
    ScanError.
    """
    kspace = kspace_of(arrays)
    require_coil_axis(kspace)
    given = mask if mask is not None else arrays.get("mask")
    sampled = sampling_mask(kspace, given)
    if not sampled.all():
        kspace[..., ~sampled] = 0
    if fftshift:
        kspace, sampled = centred(kspace, sampled)
    elif fftshift is None:
        require_centred(kspace, sampled, _CURE)
    scan = Scan(
        kspace=kspace,
        mask=sampled,
        noise_samples=_noise(arrays, kspace.shape[1]),
        coil_maps=_complex(arrays, "coil_maps", "maps-shape"),
        calibration=_complex(arrays, "calibration", "calibration-shape"),
        geometry=parse_geometry(header) if header is not None else Geometry(),
        header=header,
        attributes=harmless_attributes(attributes),
        sha256=sha256,
    )
    return scan if header is None else without_oversampling(scan, header)


def without_oversampling(scan: Scan, header: str) -> Scan:
    """A scan of lines cut along its readout to the field of view that its header asks for.

    Every sample along the readout was acquired, so that rows of the image are measured apart from
    each other and those outside can be left out: the rest is known as well as before, its noise is
    the same, and everything afterwards has half of the work. Left as it is where the header says
    nothing of the encoded field of view, where that does not agree with the matrices, and where the
    middle of one is not the middle of the other.
    """
    shape, factor = scan.geometry.recon_shape, _oversampling(header)
    have = scan.mask.shape[0]
    if shape is None or factor is None or not (scan.mask == scan.mask[:1]).all():
        return scan
    want = shape[0]
    if not want < have or (have - want) % 2 or abs(have / want / factor - 1) > _AGREES:
        return scan
    kept = slice((have - want) // 2, (have + want) // 2)

    def narrowed(kspace: NDArray[np.complex64] | None) -> NDArray[np.complex64] | None:
        if kspace is None:
            return None
        made = np.empty((*kspace.shape[:2], want, kspace.shape[3]), np.complex64)
        for one, new in zip(kspace, made, strict=True):  # a volume's transforms would take as much
            new[...] = cut(one, 1, kept)
        return made

    mask = np.ascontiguousarray(scan.mask[:want])
    kspace = narrowed(scan.kspace)
    assert kspace is not None
    maps = None if scan.coil_maps is None else np.ascontiguousarray(scan.coil_maps[..., kept, :])
    return replace(
        scan,
        kspace=kspace * mask,
        mask=mask,
        coil_maps=maps,
        calibration=narrowed(scan.calibration),
    )


def _oversampling(header: str) -> float | None:
    """Encoded over reconstructed field of view along the readout; None where it is not said."""
    encoding = ElementTree.fromstring(header).find("./{*}encoding")
    if encoding is None:
        return None
    views = []
    for name in ("encodedSpace", "reconSpace"):
        space = encoding.find(f"./{{*}}{name}")
        try:
            view = None if space is None else _axes(space, "fieldOfView_mm")
        except ValueError:  # only the space of the image is needed: the other may be nonsense
            view = None
        if view is None:
            return None
        views.append(view[0])
    return views[0] / views[1]


def kspace_of(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.complex64]:
    """(slices, coils, rows, columns), finite and not all zero. Raises ScanError."""
    if "kspace" not in arrays:
        raise _no_kspace()
    kspace = arrays["kspace"]
    if kspace.ndim == 3:
        kspace = kspace[:, np.newaxis]
    if kspace.ndim != 4 or kspace.dtype != np.complex64:
        raise ScanError(
            "kspace-shape",
            "'kspace' must be complex, (slices, coils, rows, columns) or single-coil "
            f"(slices, rows, columns), not {kspace.dtype} {arrays['kspace'].shape}",
        )
    _require_finite(kspace, "k-space")
    if not kspace.any():
        raise ScanError("empty-kspace", "all of k-space is zero; export the scan again")
    return kspace


def kspace_shape(shape: tuple[int, ...] | None) -> tuple[int, int, int, int]:
    """(slices, coils, rows, columns) of the dataset `kspace`; None where the file has none.

    Raises ScanError.
    """
    if shape is None:
        raise _no_kspace()
    if len(shape) == 3:
        shape = (shape[0], 1, shape[1], shape[2])
    if len(shape) != 4 or not all(shape):
        raise ScanError(
            "kspace-shape",
            "'kspace' must be complex, (slices, coils, rows, columns) or single-coil "
            f"(slices, rows, columns), and not empty; its shape is {shape}",
        )
    return shape[0], shape[1], shape[2], shape[3]


def sampling_mask(kspace: NDArray[np.complex64], given: NDArray[Any] | None) -> NDArray[np.bool_]:
    """(rows, columns), True where acquired.

    A sample counts as acquired if any coil of any slice is not zero there. Lines that are all
    zero are never acquired, whatever a given mask says: vendors pad with zeros.
    """
    nonzero = (kspace != 0).any(axis=(0, 1))
    if given is not None:
        mask = expand_mask(given, kspace.shape[2], kspace.shape[3])
        return mask & _occupied_lines(nonzero & mask)
    lines = _occupied_lines(nonzero)
    stray = np.count_nonzero(lines) - np.count_nonzero(nonzero)
    # Receivers round: a few zeros inside whole lines are measurements, not holes.
    return lines if stray <= _STRAY_ZEROS * np.count_nonzero(lines) else nonzero


def expand_mask(mask: NDArray[Any], rows: int, columns: int) -> NDArray[np.bool_]:
    """Boolean (rows, columns) from (columns,), (rows,), (1, columns), (rows, 1) or full shape.

    One axis of a square matrix is the last, as in fastMRI. Raises ScanError.
    """
    sampled = boolean_mask(mask)
    if sampled.shape == (rows,) and rows != columns:
        sampled = sampled[:, np.newaxis]
    if sampled.shape not in {(columns,), (1, columns), (rows, 1), (rows, columns)}:
        raise ScanError(
            "mask-shape",
            f"the mask must be ({columns},), ({rows},) or ({rows}, {columns}) "
            f"for this k-space, not {mask.shape}",
        )
    return np.broadcast_to(sampled, (rows, columns)).copy()


def boolean_mask(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """A mask stored as numbers, as booleans. Raises ScanError for values other than 0 and 1."""
    sampled = mask == 1
    if not (sampled | (mask == 0)).all():
        raise ScanError("mask-values", "a mask holds only 0 and 1; this one holds other values")
    return np.asarray(sampled, np.bool_)


def parse_geometry(header: str) -> Geometry:
    """Field of view and matrix of the reconstructed space of an ISMRMRD header.

    Raises ScanError on a document type (entities can grow without bound) and on bad XML.
    """
    refuse_document_type(header)
    try:
        space = ElementTree.fromstring(header).find("./{*}encoding/{*}reconSpace")
        if space is None:
            return Geometry()
        view = _axes(space, "fieldOfView_mm")
        matrix = _axes(space, "matrixSize")
    except (ElementTree.ParseError, ValueError) as error:
        raise ScanError(
            "header-invalid", "the ISMRMRD header is not valid XML; export it again or remove it"
        ) from error
    # fastMRI's rows are the readout, which the header calls x.
    shape = None if matrix is None else (max(1, int(matrix[0])), max(1, int(matrix[1])))
    return Geometry(field_of_view_mm=view, recon_shape=shape)


def scan_to_layout(scan: Scan) -> dict[str, NDArray[Any]]:
    """Datasets of a scan; the mask is one-dimensional where fastMRI has it so."""
    arrays: dict[str, NDArray[Any]] = {"kspace": scan.kspace}
    one_row = bool((scan.mask == scan.mask[0]).all())
    arrays["mask"] = scan.mask[0] if one_row else scan.mask
    if scan.noise_samples is not None:
        arrays["noise"] = scan.noise_samples
    if scan.coil_maps is not None:
        arrays["coil_maps"] = scan.coil_maps
    if scan.calibration is not None:
        arrays["calibration"] = scan.calibration
    return arrays


def harmless_attributes(
    attributes: Mapping[str, str | int | float],
) -> dict[str, str | int | float]:
    """Numbers and short texts; nothing named after the patient, which would identify.

    The planes of the images are long and kept.
    """
    return {
        name: value
        for name, value in attributes.items()
        if name == ATTRIBUTE
        or not (
            name.lower().startswith("patient")
            or (isinstance(value, str) and len(value) > _ATTRIBUTE_CHARACTERS)
        )
    }


def _no_kspace() -> ScanError:
    return ScanError("no-kspace", "the file has no dataset 'kspace' at its root")


def _occupied_lines(nonzero: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(rows, columns), True where neither the row nor the column is empty."""
    return np.logical_and(nonzero.any(axis=1, keepdims=True), nonzero.any(axis=0))


def _noise(arrays: Mapping[str, NDArray[Any]], coils: int) -> NDArray[np.complex64] | None:
    noise = arrays.get("noise")
    if noise is None:
        return None
    if noise.ndim != 2 or noise.shape[0] != coils or noise.dtype != np.complex64:
        raise ScanError(
            "noise-shape",
            f"'noise' must be complex ({coils}, samples), not {noise.dtype} {noise.shape}",
        )
    _require_finite(noise, "the noise scan")
    return noise


def _complex(
    arrays: Mapping[str, NDArray[Any]], name: str, code: str
) -> NDArray[np.complex64] | None:
    array = arrays.get(name)
    if array is None:
        return None
    if array.dtype != np.complex64:
        raise ScanError(code, f"'{name}' must be complex, not {array.dtype}")
    _require_finite(array, f"'{name}'")
    return array


def _require_finite(array: NDArray[Any], what: str) -> None:
    if not np.isfinite(array).all():
        raise ScanError("not-finite", f"{what} holds NaN or infinite values; export the scan again")


def _axes(space: ElementTree.Element, name: str) -> tuple[float, float, float] | None:
    """x, y and z of one element; None where it is missing. Raises ValueError."""
    texts = [space.findtext(f"./{{*}}{name}/{{*}}{axis}") for axis in "xyz"]
    values = [float(text) for text in texts if text is not None]
    if len(values) < 3:
        return None
    if not all(0 < value < 1e5 for value in values):
        raise ValueError(name)
    return values[0], values[1], values[2]
