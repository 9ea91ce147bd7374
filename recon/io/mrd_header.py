"""What the XML header of ISMRMRD says about sampling and space."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

from ismrmrd.xsd import ismrmrdHeader
from ismrmrd.xsd.ismrmrdschema import encodingSpaceType, limitType
from xsdata.exceptions import ConverterWarning, ParserError
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.parsers.config import ParserConfig
from xsdata.formats.dataclass.parsers.handlers.native import XmlEventHandler

from recon.errors import ScanError

TRAJECTORIES = ("cartesian", "radial", "goldenangle", "spiral")
"""Those that are read; all but the first need k-space positions in the readouts."""
_OF_THE_IMAGE = {None, "embedded", "interleaved"}
"""Modes of parallel imaging whose calibration readouts sample the image itself."""
_HEADER_BYTES = 8 << 20
_MATRIX = 1 << 14


@dataclass(frozen=True)
class Space:
    """Matrix and field of view; x is the readout, y and z the phase encoding directions."""

    matrix: tuple[int, int, int]
    field_of_view_mm: tuple[float, float, float]

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Field of view over matrix."""
        x, y, z = (f / n for f, n in zip(self.field_of_view_mm, self.matrix, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Encoding:
    """One encoding of a header."""

    encoded: Space
    recon: Space
    centre: tuple[int, int]
    """`kspace_encode_step_1` and `_2` of the readouts through the centre of k-space."""
    trajectory: str
    embedded_calibration: bool
    """Calibration readouts belong to the image too."""
    noise_bandwidth: float
    """Share of the sampling bandwidth that the receiver passes in the noise readouts."""

    @property
    def cartesian(self) -> bool:
        """Whether readouts lie on the grid of the matrix."""
        return self.trajectory == "cartesian"

    @property
    def kept(self) -> tuple[int, int, int]:
        """Encoded voxels inside the reconstructed field of view; interpolation is not our task."""
        x, y, z = (
            max(1, min(n, round(view / voxel)))
            for n, view, voxel in zip(
                self.encoded.matrix,
                self.recon.field_of_view_mm,
                self.encoded.voxel_mm,
                strict=True,
            )
        )
        return x, y, z


def refuse_document_type(xml: str) -> None:
    """Raise ScanError before any parser sees a DOCTYPE: entities can grow without bound."""
    if re.search(r"<!(DOCTYPE|ENTITY)", xml, re.IGNORECASE):
        raise ScanError(
            "header-doctype", "the ISMRMRD header declares a document type; remove the DOCTYPE"
        )


def parse_header(xml: str) -> ismrmrdHeader:
    """The header by the classes of the schema. Raises ScanError.

    Elements that the schema does not know are passed over: newer versions add some.
    """
    if len(xml) > _HEADER_BYTES:
        raise ScanError("header-too-large", f"the ISMRMRD header exceeds {_HEADER_BYTES} bytes")
    refuse_document_type(xml)
    # The handler is named: with lxml installed, xsdata would choose one that resolves entities.
    parser = XmlParser(
        config=ParserConfig(fail_on_unknown_properties=False, fail_on_unknown_attributes=False),
        handler=XmlEventHandler,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConverterWarning)  # values are checked where used
            return parser.from_string(xml, ismrmrdHeader)
    except (ParserError, TypeError, ValueError, AttributeError, LookupError, SyntaxError) as error:
        raise _invalid() from error


def encoding_of(header: ismrmrdHeader, number: int = 0) -> Encoding:
    """How the image was encoded, or what else has encoding `number` of the header.

    Raises ScanError for trajectories that are not read.
    """
    if number >= len(header.encoding):
        raise _invalid()
    encoding = header.encoding[number]
    trajectory = str(getattr(encoding.trajectory, "value", encoding.trajectory))[:32]
    if trajectory not in TRAJECTORIES:
        raise ScanError(
            "unsupported-trajectory",
            f"the trajectory is '{trajectory}' and only {', '.join(TRAJECTORIES)} are read; "
            "regrid the scan or reconstruct it elsewhere",
        )
    parallel, system = encoding.parallelImaging, header.acquisitionSystemInformation
    mode = None if parallel is None else parallel.calibrationMode
    bandwidth = None if system is None else system.relativeReceiverNoiseBandwidth
    try:
        encoded = _space(encoding.encodedSpace)
        limits = encoding.encodingLimits
        return Encoding(
            encoded=encoded,
            recon=_space(encoding.reconSpace),
            centre=(
                _centre(limits.kspace_encoding_step_1, encoded.matrix[1]),
                _centre(limits.kspace_encoding_step_2, encoded.matrix[2]),
            ),
            trajectory=trajectory,
            embedded_calibration=getattr(mode, "value", mode) in _OF_THE_IMAGE,
            noise_bandwidth=_positive(1.0 if bandwidth is None else bandwidth),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise _invalid() from error


def _space(space: encodingSpaceType) -> Space:
    matrix, view = space.matrixSize, space.fieldOfView_mm
    sizes = int(matrix.x), int(matrix.y), int(matrix.z)
    if not all(1 <= size <= _MATRIX for size in sizes):
        raise ValueError("matrix size")
    return Space(sizes, (_positive(view.x), _positive(view.y), _positive(view.z)))


def _centre(limit: limitType | None, size: int) -> int:
    return size // 2 if limit is None else int(limit.center)


def _positive(value: float) -> float:
    number = float(value)
    if not 0 < number < 1e5:
        raise ValueError("not a positive, finite size")
    return number


def _invalid() -> ScanError:
    return ScanError(
        "invalid-mrd-header",
        "the ISMRMRD header is not valid XML of its schema; convert the raw data again",
    )
