"""Siemens raw data (twix) as the readouts and the header of ISMRMRD, which the rest is made for.

Run in the child of `recon.io.child_reader`. The file is parsed by turbotwix; what fields mean is as
in the public converter siemens_to_ismrmrd.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io import mrd_readouts
from recon.io.formats import is_directory
from recon.io.mrd_readouts import HEAD
from recon.io.read_limits import ReadLimits

_COUNTERS = {
    "kspace_encode_step_1": "Lin", "kspace_encode_step_2": "Par", "average": "Ave",
    "slice": "Sli", "contrast": "Eco", "phase": "Phs", "repetition": "Rep", "set": "Set",
    "segment": "Seg",
}  # fmt: skip
_FLAGS = {
    "NOISEADJSCAN": mrd_readouts.NOISE,
    "PATREFSCAN": mrd_readouts.CALIBRATION,
    "PATREFANDIMASCAN": mrd_readouts.CALIBRATION_AND_IMAGING,
    "REFLECT": mrd_readouts.REVERSE,
    "PHASCOR": 24,
    "RTFEEDBACK": 28,
    "HPFEEDBACK": 26,
    "RETRO_DUMMYSCAN": 27,
    "REFPHASESTABSCAN": 30,
    "PHASESTABSCAN": 31,
    "SLICE_ACCEL_PHASCOR": 24,
}
_REFUSED = {
    "SLICE_ACCEL_REFSCAN": "simultaneous multi-slice",
    "FIRST_SCAN_IN_BLADE": "BLADE",
}
_NOISE_BANDWIDTH = 0.793
"""Share of the bandwidth that the receiver passes in noise adjustment scans."""
_NOISE_TICKS = 76_800
"""Tenths of a microsecond of a noise readout, all samples together."""
_CALIBRATION_MODES = {2: "embedded", 4: "separate", 8: "separate", 16: "interleaved"}
_LINES_AT_ONCE = 4096
_LONGEST = 1 << 14
"""Samples of an axis."""
_TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "blade"}


@dataclass(frozen=True)
class Twix:
    """One measurement: its header, and where its readouts were written."""

    xml: str
    heads: NDArray[np.void]
    """(readouts,) of type `recon.io.mrd_readouts.HEAD`."""


def convert(path: Path, samples: Path | None, limits: ReadLimits) -> Twix:
    """The last measurement of a file; its samples go to a .npy file (samples,) complex64.

    Noise comes from an earlier measurement of the same coils where the last has none. Raises
    ScanError.
    """
    try:
        import turbotwix  # lazy: the extra siemens may be absent
    except ImportError as error:
        raise ScanError(
            "siemens-extra",
            "Siemens raw data are read with the extra 'siemens': "
            "pip install 'mri-posterior[siemens]'",
        ) from error
    _require_whole(path, turbotwix.dtypes.RAID_DIRECTORY)
    cut = _Warnings()
    logging.getLogger("turbotwix").addHandler(cut)
    try:
        with turbotwix.open_twix(str(path)) as file:
            measurements = [file[index] for index in range(len(file))]
            parts = _parts(turbotwix, measurements)
            if cut.heard:
                raise _cut_short()
            protocol = _Protocol(measurements[-1].hdr)
            heads = np.concatenate([_heads(turbotwix, part, protocol) for part in parts])
            if not len(heads):
                raise ScanError("no-readouts", "the measurement holds no readouts; export it again")
            if samples is not None:
                _write_samples(parts, heads, samples, limits)
            return Twix(_header(protocol, heads, parts[-1]), heads)
    except turbotwix.TwixParseError as error:
        raise ScanError(
            "twix-damaged", f"the Siemens raw data cannot be read ({str(error)[:120]})"
        ) from error


def _require_whole(path: Path, directory: np.dtype[Any]) -> None:
    """Raise ScanError where measurements reach beyond the end of the file: the reader would too."""
    with path.open("rb") as file:
        head = file.read(directory.itemsize)
    if not is_directory(head):
        return
    if len(head) < directory.itemsize:
        raise _cut_short()
    stored = np.frombuffer(head, directory, 1)[0]
    entries = stored["entry"][: int(stored["count"])]
    ends = [int(entry["off"]) + int(entry["len"]) for entry in entries]
    if max(ends) > path.stat().st_size:
        raise _cut_short()


def _cut_short() -> ScanError:
    return ScanError(
        "twix-cut-short",
        "the file ends before its measurement does; transfer it from the scanner again",
    )


class _Warnings(logging.Handler):
    """Notices that the reader left something out, which it only logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.heard = True


def _parts(turbotwix: Any, measurements: list[Any]) -> list[Any]:  # noqa: ANN401
    """Line tables: noise of an earlier measurement, if it is needed, and the last one's lines."""
    lines = measurements[-1].lines
    for name, what in _REFUSED.items():
        if lines.has_flag(turbotwix.Flag[name]).any():
            raise ScanError("twix-sequence", f"this is a {what} measurement, which is not read")
    noise = turbotwix.Flag.NOISEADJSCAN
    if not len(lines) or lines.has_flag(noise).any():
        return [lines]
    coils = int(lines.ncha[0])
    for earlier in reversed(measurements[:-1]):
        if not len(earlier.lines):
            continue
        found = earlier.lines[earlier.lines.has_flag(noise)]
        if len(found) and (found.ncha == coils).all():
            return [found, lines]
    return [lines]


def _heads(turbotwix: Any, lines: Any, protocol: _Protocol) -> NDArray[np.void]:  # noqa: ANN401
    """(readouts,) headers of ISMRMRD."""
    stored = lines.headers()
    heads = np.zeros(len(lines), HEAD)
    for name, bit in _FLAGS.items():
        own = lines.has_flag(turbotwix.Flag[name])
        heads["flags"] |= np.where(own, np.uint64(1 << (bit - 1)), np.uint64(0))
    heads["version"] = 1
    heads["scan_counter"] = stored["ScanCounter"]
    heads["acquisition_time_stamp"] = stored["TimeStamp"]
    heads["number_of_samples"] = lines.ncol
    heads["available_channels"] = heads["active_channels"] = lines.ncha
    heads["discard_pre"], heads["discard_post"] = stored["CutOff"]["Pre"], stored["CutOff"]["Post"]
    heads["center_sample"] = stored["CenterCol"]
    for ours, theirs in _COUNTERS.items():
        heads["idx"][ours] = lines.rows["counters"][theirs]
    noise = lines.has_flag(turbotwix.Flag.NOISEADJSCAN)
    ticks = _NOISE_TICKS // np.maximum(lines.ncol.astype(np.int64), 1)
    heads["sample_time_us"] = np.where(noise, ticks / 10, protocol.dwell_us)
    data = stored["SliceData"]
    heads["position"] = np.stack([data["SlicePos"][axis] for axis in ("Sag", "Cor", "Tra")], axis=1)
    phase, read, slice_ = _directions(data["Quaternion"])
    heads["phase_dir"], heads["read_dir"], heads["slice_dir"] = phase, read, slice_
    # The flag says that lines were acquired backwards; those without data have nothing to turn.
    heads["flags"][noise] &= ~np.uint64(1 << (mrd_readouts.REVERSE - 1))
    return heads


def _directions(quaternions: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """Directions of phase encoding, readout and slice, from (readouts, 4) w, x, y, z."""
    w, x, y, z = np.moveaxis(quaternions.astype(np.float64), -1, 0)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return tuple(np.moveaxis(rotation[:, column], 0, -1) for column in range(3))


def _write_samples(
    parts: list[Any], heads: NDArray[np.void], output: Path, limits: ReadLimits
) -> None:
    """All samples as they were acquired, readout after readout, within one channel by channel."""
    total = int((heads["active_channels"].astype(np.int64) * heads["number_of_samples"]).sum())
    if 8 * total > limits.declared_bytes:
        raise ScanError("too-large", f"the readouts hold {8 * total} bytes; split the scan")
    with output.open("wb") as file:
        header = {"descr": "<c8", "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            for run in _alike(part):
                np.moveaxis(part[run].read(reflect=False), 0, 1).tofile(file)


def _alike(lines: Any) -> Iterator[slice]:  # noqa: ANN401
    """Runs of lines of one shape, in order, not too long for memory."""
    shapes = np.stack([lines.ncha, lines.ncol], axis=1).astype(np.int64)
    edges = np.flatnonzero((shapes[1:] != shapes[:-1]).any(axis=1)) + 1
    for start, stop in zip((0, *edges), (*edges, len(shapes)), strict=True):
        for first in range(int(start), int(stop), _LINES_AT_ONCE):
            yield slice(first, min(first + _LINES_AT_ONCE, int(stop)))


class _Protocol:
    """Values of the text header by their places, or what stands for them."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = header
        dwell = self.number("MeasYaps", "sRXSPEC", "alDwellTime", 0, default=0.0)
        self.dwell_us = dwell / 1000

    def value(self, *path: str | int) -> Any:  # noqa: ANN401  # parsed text
        """What stands at a place; None where there is nothing."""
        found: Any = self._header
        for step in path:
            try:
                found = found[step]
            except (KeyError, IndexError, TypeError, AttributeError):
                return None
        return found

    def number(self, *path: str | int, default: float) -> float:
        """A finite number at a place."""
        try:
            found = float(self.value(*path))
        except (TypeError, ValueError):
            return default
        return found if np.isfinite(found) else default

    def text(self, *path: str | int) -> str:
        """Text at a place, for XML; empty where there is none or it was crossed out."""
        found = self.value(*path)
        text = found.strip().strip('"')[:256] if isinstance(found, str) else ""
        return "" if not text.strip("x") else escape("".join(c for c in text if c.isprintable()))


def _header(protocol: _Protocol, heads: NDArray[np.void], lines: Any) -> str:  # noqa: ANN401
    """XML of ISMRMRD."""
    imaging = heads["flags"] & np.uint64(1 << (mrd_readouts.NOISE - 1)) == 0
    if not imaging.any():
        raise ScanError("no-readouts", "the measurement holds noise alone; export the scan")
    kind = int(protocol.number("MeasYaps", "sKSpace", "ucTrajectory", default=1))
    trajectory = "epi" if _is_echo_planar(protocol) else _TRAJECTORIES.get(kind, "other")
    stored = lines.headers()
    own = imaging[-len(stored) :]
    centre = [int(np.median(stored[name][own])) for name in ("CenterLin", "CenterPar")]
    steps = [
        heads["idx"][f"kspace_encode_step_{n}"][imaging].astype(np.int64).max() for n in (1, 2)
    ]
    fft = [protocol.number("Meas", name, default=1) for name in ("iPEFTLength", "i3DFTLength")]
    space = ("MeasYaps", "sKSpace")
    oversampling = [
        1 + protocol.number(*space, name, default=0.0)
        for name in ("dPhaseOversamplingForDialog", "dSliceOversamplingForDialog")
    ]
    volume = int(protocol.number(*space, "ucDimension", default=2)) == 4
    matrix = [
        max(2 * max(c, int(last) + 1 - c), int(length) if length < 1 << 14 else 1)
        for c, last, length in zip(centre, steps, fft, strict=True)
    ]
    if not volume:
        matrix[1] = max(1, int(steps[1]) + 1)
    samples = heads[imaging][0]
    read = int(samples["number_of_samples"]) - int(samples["discard_pre"])
    middle = int(samples["center_sample"]) - int(samples["discard_pre"])
    width = 2 * max(middle, read - int(samples["discard_post"]) - middle)
    factor = protocol.number("Meas", "flReadoutOSFactor", default=2.0)
    if max(width, *matrix) > _LONGEST:
        raise ScanError(
            "twix-damaged",
            f"the readouts would make a matrix of {width} x {matrix[0]} x {matrix[1]}; the file is "
            "probably damaged: transfer it from the scanner again",
        )
    slice_ = ("MeasYaps", "sSliceArray", "asSlice", 0)
    view = [
        protocol.number(*slice_, name, default=0.0)
        for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")
    ]
    if min(view) <= 0 or factor < 1:
        raise ScanError(
            "twix-geometry", "the Siemens header names no field of view; convert the file yourself"
        )
    recon = [
        round(width / factor), round(matrix[0] / oversampling[0]),
        round(matrix[1] / (oversampling[1] if volume else 1)),
    ]  # fmt: skip
    encoded_view = [
        view[0] * factor,
        view[1] * oversampling[0],
        view[2] * (oversampling[1] if volume else 1),
    ]
    accelerated = [
        int(protocol.number("MeasYaps", "sPat", name, default=1))
        for name in ("lAccelFactPE", "lAccelFact3D")
    ]
    mode = int(protocol.number("MeasYaps", "sPat", "ucRefScanMode", default=1))
    return (
        '<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        + _subject(protocol)
        + _study(protocol)
        + f"<measurementInformation>{_position(protocol)}"
        + _element("protocolName", protocol.text("Meas", "tProtocolName"))
        + _element("frameOfReferenceUID", protocol.text("Config", "tFrameOfReference")[:64])
        + "</measurementInformation><acquisitionSystemInformation>"
        + _element("systemVendor", protocol.text("Dicom", "Manufacturer") or "SIEMENS")
        + _element("systemModel", protocol.text("Dicom", "ManufacturersModelName"))
        + _element(
            "systemFieldStrength_T",
            protocol.number("Dicom", "flMagneticFieldStrength", default=0.0) or "",
        )
        + f"<relativeReceiverNoiseBandwidth>{_NOISE_BANDWIDTH}</relativeReceiverNoiseBandwidth>"
        + "</acquisitionSystemInformation><experimentalConditions><H1resonanceFrequency_Hz>"
        + f"{int(protocol.number('Dicom', 'lFrequency', default=0))}</H1resonanceFrequency_Hz>"
        + "</experimentalConditions><encoding>"
        + _space("encodedSpace", (width, *matrix), encoded_view)
        + _space("reconSpace", recon, view)
        + "<encodingLimits>"
        + "".join(
            f"<kspace_encoding_step_{n}><minimum>0</minimum><maximum>{last}</maximum>"
            f"<center>{c}</center></kspace_encoding_step_{n}>"
            for n, last, c in zip((1, 2), steps, centre, strict=True)
        )
        + f"</encodingLimits><trajectory>{trajectory}</trajectory><parallelImaging>"
        + "<accelerationFactor><kspace_encoding_step_1>"
        + f"{max(accelerated[0], 1)}</kspace_encoding_step_1><kspace_encoding_step_2>"
        + f"{max(accelerated[1], 1)}</kspace_encoding_step_2></accelerationFactor>"
        + f"<calibrationMode>{_CALIBRATION_MODES.get(mode, 'embedded')}</calibrationMode>"
        + "</parallelImaging></encoding><sequenceParameters>"
        + _times(protocol)
        + "</sequenceParameters></ismrmrdHeader>"
    )


def _is_echo_planar(protocol: _Protocol) -> bool:
    """Whether a train of readouts follows each excitation, sampled on the gradient's ramps."""
    return protocol.number("MeasYaps", "sFastImaging", "lEPIFactor", default=1) > 1


def _subject(protocol: _Protocol) -> str:
    name, number = protocol.text("Config", "tPatientName"), protocol.text("Config", "PatientID")
    inside = _element("patientName", name) + _element("patientID", number)
    return f"<subjectInformation>{inside}</subjectInformation>" if inside else ""


def _study(protocol: _Protocol) -> str:
    part = protocol.text("Dicom", "tBodyPartExamined")
    inside = _element("bodyPartExamined", part[:16])
    return f"<studyInformation>{inside}</studyInformation>" if inside else ""


def _position(protocol: _Protocol) -> str:
    place = protocol.text("Meas", "tPatientPosition") or protocol.text("Meas", "sPatPosition")
    known = {f"{way}F{side}" for way in "HF" for side in ("P", "S", "DL", "DR")}
    return f"<patientPosition>{place if place in known else 'HFS'}</patientPosition>"


def _times(protocol: _Protocol) -> str:
    """Milliseconds and degrees, those of the first contrast."""
    names = {"TR": ("alTR", 1000), "TE": ("alTE", 1000), "TI": ("alTI", 1000)}
    parts = [
        _element(ours, protocol.number("MeasYaps", theirs, 0, default=0.0) / scale or "")
        for ours, (theirs, scale) in names.items()
    ]
    angle = protocol.number("MeasYaps", "adFlipAngleDegree", 0, default=0.0)
    return "".join(parts) + _element("flipAngle_deg", angle or "")


def _element(name: str, value: object) -> str:
    return f"<{name}>{value}</{name}>" if value != "" else ""


def _space(name: str, matrix: Any, view: Any) -> str:  # noqa: ANN401
    sizes = "".join(f"<{a}>{int(n)}</{a}>" for a, n in zip("xyz", matrix, strict=True))
    views = "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", view, strict=True))
    return (
        f"<{name}><matrixSize>{sizes}</matrixSize><fieldOfView_mm>{views}</fieldOfView_mm></{name}>"
    )
