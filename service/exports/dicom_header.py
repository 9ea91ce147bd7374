"""What DICOM takes over from the header of a scan: patient, study, series, scanner, sequence."""

from __future__ import annotations

import re
from typing import Any

from highdicom.sr import CodedConcept
from pydicom import Dataset

from service.exports.body_part import UNPAIRED, body_part
from service.exports.images import ResultImages, unique_id

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_SEXES = {"M", "F", "O"}


def from_header(images: ResultImages, key: bytes) -> Dataset:
    """A dataset with all attributes that whatever is made of one result shares.

    What the standard wants and the header does not have is empty. Nothing here is an image's own.
    """
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    header = images.header
    _patient(dataset, getattr(header, "subjectInformation", None))
    _study(dataset, images, getattr(header, "studyInformation", None), key)
    _series(dataset, images, getattr(header, "measurementInformation", None), key)
    _scanner(dataset, getattr(header, "acquisitionSystemInformation", None))
    add_body_part(dataset, body_part(header))
    if not images.identified:
        # Archives file by these; they are the scan's own and say nothing of the patient.
        pseudonym = unique_id(key, "patient", images.attributes.get("input_sha256"))
        dataset.PatientID, dataset.StudyID = f"MRP{pseudonym[-12:]}", "1"
        dataset.PatientIdentityRemoved = "YES"
        # The pixels of a head still show a face: cleaning them (113102) is not claimed.
        dataset.DeidentificationMethod = "identifying fields of the ISMRMRD header left out"
        dataset.DeidentificationMethodCodeSequence = [
            CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile")
        ]
    return dataset


def add_body_part(dataset: Dataset, part: str) -> None:
    """What was scanned, and that its side is not known where it may have one."""
    if part:
        dataset.BodyPartExamined = part
    if part not in UNPAIRED:
        dataset.Laterality = ""


def _patient(dataset: Dataset, subject: Any) -> None:  # noqa: ANN401  # schema class or None
    sex = _text(getattr(subject, "patientGender", None), 1).upper()
    dataset.PatientName = _text(getattr(subject, "patientName", None))
    dataset.PatientID = _text(getattr(subject, "patientID", None))
    dataset.PatientBirthDate = _date(getattr(subject, "patientBirthdate", None))
    dataset.PatientSex = sex if sex in _SEXES else ""


def _study(dataset: Dataset, images: ResultImages, study: Any, key: bytes) -> None:  # noqa: ANN401
    own = getattr(study, "studyInstanceUID", None)
    derived = unique_id(key, "study", images.identified, images.attributes.get("input_sha256"))
    dataset.StudyInstanceUID = _uid(own) or derived
    dataset.StudyDate = _date(getattr(study, "studyDate", None))
    dataset.StudyTime = _time(getattr(study, "studyTime", None))
    dataset.StudyID = _text(getattr(study, "studyID", None), 16)
    # The schema has a number here, so leading zeros are lost before we see it.
    dataset.AccessionNumber = _text(getattr(study, "accessionNumber", None), 16)
    dataset.ReferringPhysicianName = _text(getattr(study, "referringPhysicianName", None))
    description = _text(getattr(study, "studyDescription", None))
    if description:
        dataset.StudyDescription = description


def _series(dataset: Dataset, images: ResultImages, series: Any, key: bytes) -> None:  # noqa: ANN401
    own = _uid(getattr(series, "frameOfReferenceUID", None))
    dataset.FrameOfReferenceUID = own or unique_id(key, "frame", dataset.StudyInstanceUID)
    dataset.PositionReferenceIndicator = ""
    position = getattr(series, "patientPosition", None)
    dataset.PatientPosition = _text(getattr(position, "value", position), 16)
    dataset.SeriesNumber = int(getattr(series, "initialSeriesNumber", None) or 0)
    protocol = _text(getattr(series, "protocolName", None))
    if protocol:
        dataset.ProtocolName = protocol
    if images.identified:
        dataset.SeriesDate = _date(getattr(series, "seriesDate", None)) or dataset.StudyDate
        dataset.SeriesTime = _time(getattr(series, "seriesTime", None)) or dataset.StudyTime


def _scanner(dataset: Dataset, system: Any) -> None:  # noqa: ANN401  # schema class or None
    dataset.Manufacturer = _text(getattr(system, "systemVendor", None))
    for keyword, name in (
        ("ManufacturerModelName", "systemModel"),
        ("InstitutionName", "institutionName"),
        ("StationName", "stationName"),
        ("DeviceSerialNumber", "deviceSerialNumber"),
    ):
        text = _text(getattr(system, name, None), 16 if keyword == "StationName" else 64)
        if text:
            setattr(dataset, keyword, text)
    field = getattr(system, "systemFieldStrength_T", None)
    if field is not None:
        dataset.MagneticFieldStrength = _number(field)


def add_sequence(dataset: Dataset, images: ResultImages) -> None:
    """How images were measured; `EchoTime` is a list where there are several contrasts."""
    # "Research mode" forbids an inversion time, which vendors give for sequences without one.
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "RM", "NONE", ""
    partitions = any("partition" in plane.labels for plane in images.stack.planes)
    dataset.MRAcquisitionType = "3D" if partitions else "2D"
    header = images.header
    sequence = getattr(header, "sequenceParameters", None)
    encodings = getattr(header, "encoding", None)
    dataset.EchoTrainLength = encodings[0].echoTrainLength if encodings else None
    for keyword, name in (
        ("RepetitionTime", "TR"),
        ("EchoTime", "TE"),
        ("FlipAngle", "flipAngle_deg"),
    ):
        values = [text for value in getattr(sequence, name, ()) if (text := _number(value))]
        several = keyword == "EchoTime" and len(values) > 1
        setattr(dataset, keyword, values if several else values[0] if values else None)
    frequency = getattr(
        getattr(header, "experimentalConditions", None), "H1resonanceFrequency_Hz", 0
    )
    if frequency:
        dataset.ImagingFrequency = _number(float(frequency) / 1e6)


def _text(value: object, length: int = 64) -> str:
    """A header's free text as one DICOM value: no control characters, no separator."""
    if value is None:
        return ""
    return re.sub(r"[\x00-\x1f\x7f\\]", " ", str(value)).strip()[:length].strip()


def _uid(value: object) -> str | None:
    text = "" if value is None else str(value).strip()
    return text if len(text) <= 64 and _UID.fullmatch(text) else None


def _number(value: object) -> str | None:
    try:
        return f"{float(str(value)):.10g}"
    except ValueError:
        return None


def _date(value: object) -> str:
    """YYYYMMDD, or empty where the header has something else."""
    match = re.match(r"(\d{4})-(\d{2})-(\d{2})", "" if value is None else str(value))
    return "".join(match.groups()) if match else ""


def _time(value: object) -> str:
    match = re.match(r"(\d{2}):(\d{2}):(\d{2})", "" if value is None else str(value))
    return "".join(match.groups()) if match else ""
