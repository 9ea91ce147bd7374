"""MR images out of a heap of DICOM files: which belong together, in which order, as what values.

Nothing that a file says of a person leaves this module but as a pseudonym.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from recon.errors import ScanError
from service.images.volumes import (
    SIDES,
    ImageSettings,
    Item,
    LeftOut,
    Pseudonym,
    Volume,
    Working,
    first_identity,
)

Component = Literal["magnitude", "phase", "real", "imaginary"]

_CLASSIC = "1.2.840.10008.5.1.4.1.1.4"
_ENHANCED = ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4")
_FUNCTIONAL_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
}
"""Where a multi-frame image keeps what a classic one keeps at its root."""
_KEYWORDS = [
    *_FUNCTIONAL_GROUPS,
    *("SOPClassUID", "Modality", "ImageType", "PhotometricInterpretation", "SamplesPerPixel"),
    *("SeriesInstanceUID", "SeriesDescription", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "InstanceNumber", "AcquisitionTime", "EchoTime", "BurnedInAnnotation"),
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_COMPONENT = re.compile(r"(MAGNITUDE|PHASE|REAL|IMAGINARY|[MPRI])(_[A-Z]+)?( MAP)?")
_COMPONENTS: dict[str, Component] = {
    "M": "magnitude", "P": "phase", "R": "real", "I": "imaginary",
}  # fmt: skip
_OTHER_HALF: dict[Component, Component] = {"magnitude": "phase", "real": "imaginary"}
_SCOUT = re.compile(r"locali[sz]er|scout|survey", re.IGNORECASE)
_COMPUTED = {"PROJECTION IMAGE", "MIP", "MINIP", "MPR", "ADC", "FA", "TRACEW", "SUBTRACT", "MOSAIC"}
_HALF_TURNS = (np.pi, 180.0, 1000 * np.pi, 2048.0, 4096.0)
"""What vendors store for a phase of π."""
_FRAMES = 20_000


@dataclass(frozen=True)
class Frame:
    """One image of one file."""

    file: int
    index: int
    shape: tuple[int, int]
    position: tuple[float, ...]
    """Of the first pixel (mm)."""
    orientation: tuple[float, ...]
    """Directions of a row and of a column."""
    spacing: tuple[float, ...]
    """Between rows and between columns (mm)."""
    slope: float
    intercept: float
    component: Component
    echo: float
    number: int
    time: str
    series: str
    space: tuple[str, str]
    """Study and frame of reference."""
    patient: str
    file_bytes: int
    """All frames of the file, decoded."""

    @property
    def group(self) -> tuple[object, ...]:
        """Equal for the frames that form one stack of slices."""
        return (self.series, self.component, *self.geometry)

    @property
    def geometry(self) -> tuple[object, ...]:
        turned = tuple(round(value, 3) for value in self.orientation)
        return self.space, self.shape, turned, self.spacing, self.echo, self.patient

    @property
    def depth(self) -> float:
        """Position across the slices (mm), to 10 µm."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return round(float(normal @ np.array(self.position)), 2)


Stack = tuple[Frame, ...]


def dicom_items(
    files: Sequence[Path], pseudonym: Pseudonym, settings: ImageSettings
) -> Iterator[Working | Item | LeftOut]:
    """What the files hold: one item per stack of slices; what is no MR image is left out."""
    frames: list[Frame] = []
    refused: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, file in enumerate(files):
        if number % 50 == 0:
            yield Working(f"header {number + 1} of {len(files)}", 0.3 * number / len(files))
        try:
            frames += read_frames(file, number, pseudonym)
        except ScanError as error:
            refused[error.code, error.message].append(number)
    for (code, reason), numbers in refused.items():
        yield LeftOut(tuple(numbers), code, reason)
    for stack, partner in _pairs(_stacks(frames)):
        inputs = tuple(dict.fromkeys(frame.file for frame in (*stack, *partner)))
        first = stack[0]
        if first.component not in _OTHER_HALF:
            yield LeftOut(
                inputs, f"{first.component}-alone",
                f"this {first.component} image has no other half of the same geometry; "
                "export both, or leave it out",
            )  # fmt: skip
            continue
        read = _reader(files, stack, partner, settings)
        yield Item(inputs, read, repr(first.group))


def read_frames(path: Path, file: int, pseudonym: Pseudonym) -> list[Frame]:
    """The MR images of one file, without their pixels. Raises ScanError, and nothing else."""
    try:
        with warnings.catch_warnings(action="ignore"):
            syntax = read_file_meta_info(path).TransferSyntaxUID
            _check_syntax(syntax)
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
            _check_header(header)
            return [
                _frame(header, holder, file, index, pseudonym)
                for index, holder in enumerate(_holders(header))
            ]
    except ScanError:
        raise
    except Exception as error:  # pydicom raises nearly any type on a damaged file
        raise ScanError(
            "dicom-damaged",
            "the header is not readable as DICOM or lacks what an MR image must have; "
            "export it again",
        ) from error


def _check_syntax(syntax: UID) -> None:
    if syntax == DeflatedExplicitVRLittleEndian:  # unpacked without any limit
        raise ScanError("deflated", "deflated DICOM is not read; export it uncompressed")
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise ScanError(
            "compressed", f"{_known_name(syntax)} cannot be decoded here; export it uncompressed"
        )


def _check_header(header: Dataset) -> None:
    modality = str(header.get("Modality", ""))
    if modality != "MR":
        shown = modality if re.fullmatch("[A-Z]{2,8}", modality) else "unknown"
        raise ScanError("not-mr", f"the modality is {shown}, not MR")
    kind = header.SOPClassUID
    if kind not in (_CLASSIC, *_ENHANCED):
        raise ScanError("not-an-image", f"{_known_name(kind)} is no MR image")
    words = {str(word).upper() for word in header.get("ImageType", ())}
    if "LOCALIZER" in words or _SCOUT.search(str(header.get("SeriesDescription", ""))):
        raise ScanError("localizer", "a localizer: too coarse and too few slices")
    if words & _COMPUTED:
        raise ScanError(
            "computed-image", f"computed from other images ({', '.join(sorted(words & _COMPUTED))})"
        )
    if header.SamplesPerPixel != 1 or header.PhotometricInterpretation != "MONOCHROME2":
        raise ScanError("colour", "a colour or inverted image")
    if header.get("BurnedInAnnotation") == "YES":
        raise ScanError("annotated", "text is burned into the image")
    rows, columns = int(header.Rows), int(header.Columns)
    if min(rows, columns) < 1 or max(rows, columns) > 4 * SIDES[1]:
        raise ScanError("matrix-size", f"the image has {rows} x {columns} pixels")


def _known_name(identifier: UID) -> str:
    return identifier.name if identifier.name != identifier else "an unregistered kind of file"


def _holders(header: Dataset) -> Iterable[Callable[[str], Any]]:
    """For each frame, how to look a keyword up."""
    if header.SOPClassUID == _CLASSIC:
        return [header.get]
    shared = [*header.get("SharedFunctionalGroupsSequence", ())]
    per_frame = header.PerFrameFunctionalGroupsSequence
    if not 0 < len(per_frame) == int(header.NumberOfFrames) <= _FRAMES:
        raise ScanError("frames", "the number of frames is not that of their descriptions")

    def lookup(frame: Dataset) -> Callable[[str], Any]:
        def find(keyword: str) -> Any:  # noqa: ANN401 - as pydicom has it
            for group in (frame, *shared):
                sequence = group.get(_FUNCTIONAL_GROUPS.get(keyword, ""))
                if sequence and keyword in sequence[0]:
                    return sequence[0].get(keyword)
            return header.get(keyword)

        return find

    return [lookup(frame) for frame in per_frame]


def _frame(
    header: Dataset, find: Callable[[str], Any], file: int, index: int, pseudonym: Pseudonym
) -> Frame:
    shape = (int(header.Rows), int(header.Columns))
    echo = find("EffectiveEchoTime") or find("EchoTime")
    person = first_identity(str(header.get("PatientID") or "")) or str(header.StudyInstanceUID)
    frame = Frame(
        file=file,
        index=index,
        shape=shape,
        position=_numbers(find("ImagePositionPatient"), 3),
        orientation=_numbers(find("ImageOrientationPatient"), 6),
        spacing=_numbers(find("PixelSpacing"), 2),
        slope=_number(find("RescaleSlope"), 1),
        intercept=_number(find("RescaleIntercept"), 0),
        component=_component(find),
        echo=_number(echo, 0),
        number=int(find("InstanceNumber") or 0),
        time=str(find("FrameAcquisitionDateTime") or find("AcquisitionTime") or ""),
        series=str(header.SeriesInstanceUID),
        space=(str(header.StudyInstanceUID), str(header.get("FrameOfReferenceUID", ""))),
        patient=pseudonym(person),
        file_bytes=int(header.get("NumberOfFrames") or 1) * shape[0] * shape[1]
        * max(1, int(header.BitsAllocated) // 8),
    )  # fmt: skip
    if min(frame.spacing) <= 0:
        raise ScanError("pixel-size", f"pixels of {frame.spacing} mm")
    return frame


def _numbers(values: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if values is None or len(values) != count:
        raise ScanError(
            "no-position", "position, orientation or pixel size is missing; export with geometry"
        )
    return tuple(_number(value, 0) for value in values)


def _number(value: float | None, default: float) -> float:
    number = default if value is None else float(value)
    if not np.isfinite(number):
        raise ScanError("not-finite", "a number in the header is not finite; export it again")
    return number


def _component(find: Callable[[str], Any]) -> Component:
    told = find("ComplexImageComponent")
    words = [told] if told else [*(find("FrameType") or find("ImageType") or ())][2:]
    for word in words:
        match = _COMPONENT.fullmatch(str(word).upper())
        if match:
            return _COMPONENTS[match[1][0]]
    return "magnitude"


def _stacks(frames: Iterable[Frame]) -> list[Stack]:
    """Frames of one series and geometry, by repetition and then position."""
    groups: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame.group].append(frame)
    stacks = []
    for group in groups.values():
        seen: dict[float, int] = defaultdict(int)
        ordered: list[tuple[int, float, int, Frame]] = []
        for frame in sorted(group, key=lambda each: (each.number, each.index)):
            ordered.append((seen[frame.depth], frame.depth, len(ordered), frame))
            seen[frame.depth] += 1
        stacks.append(tuple(frame for *_, frame in sorted(ordered, key=lambda each: each[:3])))
    return stacks


def _pairs(stacks: Sequence[Stack]) -> Iterator[tuple[Stack, Stack]]:
    """Each stack with its other half, if exactly one fits; halves that found theirs are gone."""
    fitting: dict[tuple[object, ...], list[Stack]] = defaultdict(list)
    for stack in stacks:
        fitting[(*_acquisition(stack), stack[0].component)].append(stack)
    partners: dict[Stack, Stack] = {}
    for first, second in _OTHER_HALF.items():
        for key, found in fitting.items():
            other = fitting.get((*key[:-1], second), [])
            if key[-1] == first and len(found) == len(other) == 1:
                partners[found[0]] = other[0]
    taken = set(partners.values())
    return ((stack, partners.get(stack, ())) for stack in stacks if stack not in taken)


def _acquisition(stack: Stack) -> tuple[object, ...]:
    places = tuple((*(round(value, 2) for value in frame.position), frame.time) for frame in stack)
    return stack[0].geometry, places


def _reader(
    files: Sequence[Path], stack: Stack, partner: Stack, settings: ImageSettings
) -> Callable[[], Iterator[Working | Volume]]:
    def read() -> Iterator[Working | Volume]:
        first = stack[0]
        total = 8 * len(stack) * first.shape[0] * first.shape[1]
        if max(total, *(frame.file_bytes for frame in (*stack, *partner))) > settings.volume_bytes:
            raise ScanError(
                "too-large", f"a series or file has more than {settings.volume_bytes} bytes of "
                "pixels; export it in parts",
            )  # fmt: skip
        yield Working(f"{len(stack)} slices", 0)
        images: NDArray[Any] = _values(files, stack)
        notes: tuple[str, ...] = ()
        if partner:
            yield Working(f"{len(stack)} slices, {partner[0].component}", 0.5)
            other = _values(files, partner)
            if first.component == "real":
                images = (images + 1j * other).astype(np.complex64)
            elif (half_turn := _half_turn(other)) is not None:
                images = (images * np.exp(1j * np.pi / half_turn * other)).astype(np.complex64)
            else:
                notes = ("unit of the phase unknown: magnitude only",)
        elif first.component == "real":
            raise ScanError(
                "real-alone", "this real image has no imaginary half of the same geometry; "
                "export both, or leave it out",
            )  # fmt: skip
        yield Volume(images, (first.spacing[0], first.spacing[1]), first.patient, notes)

    return read


@np.errstate(all="ignore")  # what becomes infinite or NaN is refused
def _values(files: Sequence[Path], stack: Stack) -> NDArray[np.float32]:
    """Rescaled pixels (slices, rows, columns)."""
    images = np.empty((len(stack), *stack[0].shape), np.float32)
    of_file: dict[int, list[int]] = defaultdict(list)
    for place, frame in enumerate(stack):
        of_file[frame.file].append(place)
    for file, places in of_file.items():
        pixels = _pixels(files[file])
        for place in places:
            frame = stack[place]
            if pixels.shape[1:] != frame.shape or not 0 <= frame.index < len(pixels):
                raise ScanError("dicom-damaged", "the pixels are not those of the header")
            images[place] = pixels[frame.index] * frame.slope + frame.intercept
    return images


def _pixels(path: Path) -> NDArray[Any]:
    """Stored values (frames, rows, columns)."""
    try:
        with warnings.catch_warnings(action="ignore"):
            pixels = pixel_array(path, raw=True)
    except Exception as error:  # every decoder has its own types
        raise ScanError(
            "pixels-damaged", "the pixels of a file cannot be decoded; export the series again"
        ) from error
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels


def _half_turn(phase: NDArray[np.float32]) -> float | None:
    """The stored value of π, which wrapped phase comes close to somewhere in air."""
    largest = float(np.abs(phase).max())
    return next((each for each in _HALF_TURNS if 0.9 * each <= largest <= 1.01 * each), None)
