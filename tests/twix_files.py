"""Siemens raw data as the public package twixtools writes them, of known k-space."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

twixtools = pytest.importorskip("twixtools")
mdb = pytest.importorskip("twixtools.mdb")

QUATERNION = (0.5, 0.5, 0.5, 0.5)
"""Read along z, phase along y, slice along x of the patient, up to sign and order."""
POSITION = (10.0, -20.0, 30.0)
_LEAST_BYTES = 16384


def protocol(
    view: tuple[float, float, float] = (200.0, 180.0, 5.0),
    *,
    volume: bool = False,
    dwell_ns: int = 2500,
    reference: int = 1,
    epi: int = 1,
    software: str = "syngo MR E11",
    part: str = "BRAIN",
    **meas: float,
) -> bytes:
    """The text header of a measurement."""
    yaps = (
        "### ASCCONV BEGIN ###\n"
        f"sKSpace.ucDimension = 0x{4 if volume else 2}\nsKSpace.ucTrajectory = 0x1\n"
        f"sSliceArray.asSlice[0].dReadoutFOV = {view[0]}\n"
        f"sSliceArray.asSlice[0].dPhaseFOV = {view[1]}\n"
        f"sSliceArray.asSlice[0].dThickness = {view[2]}\n"
        f"sRXSPEC.alDwellTime[0] = {dwell_ns}\nsPat.lAccelFactPE = 1\nsPat.lAccelFact3D = 1\n"
        f"sPat.ucRefScanMode = 0x{reference}\nsFastImaging.lEPIFactor = {epi}\n"
        "alTR[0] = 500000\nalTE[0] = 8000\nadFlipAngleDegree[0] = 30\n### ASCCONV END ###\n"
    )
    values = "".join(f'<ParamDouble."{name}"> {{ {value} }}\n' for name, value in meas.items())
    named = '<ParamString."tPatientPosition"> { "HFS" }\n<ParamString."tProtocolName"> { "tse" }\n'
    dicom = (
        '<ParamString."Manufacturer"> { "SIEMENS" }\n'
        '<ParamString."ManufacturersModelName"> { "Prisma" }\n'
        f'<ParamString."SoftwareVersions"> {{ "{software}" }}\n'
        f'<ParamString."tBodyPartExamined"> {{ "{part}" }}\n'
        '<ParamDouble."flMagneticFieldStrength"> { 2.9 }\n<ParamLong."lFrequency"> { 123000000 }\n'
    )
    parts = {
        "Config": '<ParamString."tPatientName"> { "Jane^Doe" }\n',
        "Dicom": dicom,
        "Meas": named + values,
        "MeasYaps": yaps,
    }
    body = b"".join(
        name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode()
        for name, text in parts.items()
    )
    # Of VB the header is known by being long, as those of scanners are.
    length = max((8 + len(body) + 31) // 32 * 32, _LEAST_BYTES)
    return struct.pack("<II", length, len(parts)) + body.ljust(length - 8, b"\0")


def line(
    samples: NDArray[np.complex64],
    flags: Sequence[str] = (),
    *,
    centre: int | None = None,
    centre_line: int = 0,
    vb: bool = False,
    **counters: int,
) -> object:
    """One readout (coils, samples); counters are those of Siemens (Lin, Par, Sli, Ave, …).

    `vb` is of the software before VD, whose readouts have another header.
    """
    block = mdb.Mdb_local(np.ascontiguousarray(samples, np.complex64), version_is_ve=not vb)
    block.mdh.CenterCol = samples.shape[1] // 2 if centre is None else centre
    block.mdh.CenterLin = centre_line
    for name, value in counters.items():
        setattr(block.mdh.Counter, name, value)
    for name, value in zip(("Sag", "Cor", "Tra"), POSITION, strict=True):
        setattr(block.mdh.SliceData.SlicePos, name, value)
    for at, value in enumerate(QUATERNION):
        block.mdh.SliceData.Quaternion[at] = value
    for flag in flags:
        block.add_flag(flag)
    return block


def write(path: Path, *measurements: tuple[bytes, list[object]]) -> Path:
    """One file of one or several measurements, header and readouts each."""
    scans = [
        {"hdr_str": np.frombuffer(header, "S1"), "mdb": list(blocks)}
        for header, blocks in measurements
    ]
    twixtools.write_twix(scans, str(path))
    return path


def write_vb(path: Path, header: bytes, blocks: Sequence[Any]) -> Path:
    """A file as VA and VB have them: one measurement, no directory, a header for every channel.

    Put together here from the headers of twixtools, whose own writer repeats one of them; its
    reader takes the result.
    """
    end = mdb.Mdb_local(version_is_ve=False)
    end.add_flag("ACQEND")
    with path.open("xb") as file:
        file.write(header)
        for block in blocks:
            for channel, samples in enumerate(block.data):
                block.mdh.ChannelId = channel
                file.write(bytes(block.mdh) + samples.tobytes())
        file.write(bytes(end.mdh) + bytes(160))
    return path


def lines_of(path: Path) -> list[Any]:
    """Readouts of the last measurement as twixtools finds them."""
    found = twixtools.read_twix(
        str(path), parse_prot=False, parse_pmu=False, parse_geometry=False, verbose=False
    )
    return list(found[-1]["mdb"])
