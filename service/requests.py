"""What a client may ask for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from recon.choices import COHERENCE, CoarseName, PathName, PresetName
from recon.errors import ScanError
from recon.io.layouts import AXES, LAYOUTS, parse_axes
from service.bids_names import BIDS_NAME, BidsName

MODEL_NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
SELECTION = r"^[a-z]+=[0-9]{1,5}(,[a-z]+=[0-9]{1,5})*$"
CLIENT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_WEEK = 7 * 24 * 3600.0

Tag = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
TagName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
TagPair = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}:[^\x00-\x1f\x7f]*$", max_length=193)
]
"""NAME:VALUE, as queries have it."""
Millimetres = Annotated[float, Field(gt=0, le=1000)]


def _separated(value: object) -> object:
    """`1,1,5` of a query as the list that JSON has."""
    return value.split(",") if isinstance(value, str) else value


class Priority(StrEnum):
    """Who is waiting for it; a lower class starts when no higher one waits."""

    SCANNER = "scanner"
    INTERACTIVE = "interactive"
    ARCHIVE = "archive"

    @property
    def rank(self) -> int:
        """As the queue counts: low starts first."""
        return 1 + list(Priority).index(self)


class Reading(BaseModel):
    """How the arrays of a scan's file are read, where what it holds does not say."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_serialization_defaults_required=True
    )

    layout: Annotated[str, StringConstraints(max_length=32)] | None = Field(
        None,
        description=f"{', '.join(layout.name for layout in LAYOUTS)} [what the file holds says]",
    )
    axes: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None,
        description="what the axes of the file's one array count, in its order, as "
        f"slice,row,column,coil; of {', '.join(AXES)}",
    )

    @field_validator("layout")
    @classmethod
    def _known_layout(cls, value: str | None) -> str | None:
        names = [layout.name for layout in LAYOUTS]
        if value is not None and value not in names:
            raise ValueError(f"layouts are {', '.join(names)}")
        return value

    @field_validator("axes")
    @classmethod
    def _known_axes(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                return ",".join(parse_axes(value))
            except ScanError as error:
                raise ValueError(error.message) from error
        return value

    @property
    def named_axes(self) -> tuple[str, ...] | None:
        """The axes one by one."""
        return None if self.axes is None else parse_axes(self.axes)


AS_IT_SAYS = Reading()
"""What a file holds says how it is read."""


class ReconstructionChoices(Reading):
    """How to reconstruct; the defaults need no thought."""

    preset: PresetName | None = Field(None, description="fast, standard (default) or thorough")
    model: Annotated[str, StringConstraints(pattern=MODEL_NAME)] | None = Field(
        None, description="prior, by name (see /v1/models)"
    )
    samples: int | None = Field(None, ge=2, le=256, description="independent samples [by preset]")
    seed: int = Field(0, ge=0, le=2**53 - 1, description="seed of everything random")
    slices: Annotated[str, StringConstraints(max_length=200)] | None = Field(
        None, description="3, 3:5 or 0,2,4 [all]"
    )
    select: Annotated[str, StringConstraints(max_length=200, pattern=SELECTION)] | None = Field(
        None, description="images of raw data, as repetition=0 or contrast=1,set=0 [all]"
    )
    fftshift: bool | None = Field(
        None,
        description="true moves the zero frequency and the image's origin from the corner to the "
        "middle, where the energy of k-space shows them there; false takes k-space as it is "
        "[refuse such scans]",
    )
    calibration_scan_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = (
        Field(
            None,
            description="a scan whose lines make the coil maps: of the same slices, coils and "
            "field of view, read with the same layout or axes [the scan's own lines]",
        )
    )
    coarse: CoarseName = Field("cg-sense", description="the first reconstruction")
    path: PathName = Field("prior", description="what annealed Langevin follows")
    fit_noise: bool = Field(True, description="fit the noise level when the residual contradicts")
    self_check: bool = Field(True, description="predict held-out lines in a second run")
    slice_coherence: float = Field(
        COHERENCE,
        ge=0,
        le=1000,
        description="over how many sides of a pixel along a stack of slices the finest details of "
        "its samples hold together, coarser ones over as much more; 0 samples every slice by "
        "itself. Each slice's own mean, intervals and maps have the same law whatever it is",
    )
    volume: bool = Field(
        False,
        description="sample the slices as one volume, for scans with two phase encodings and "
        "voxels that are nearly cubes; one job on one worker, without a self-check "
        "(/v1/limits/volume says what it takes)",
    )
    calibrated: bool = Field(
        False,
        description="multiply intervals and standard deviations by the model's conformal factor; "
        "refused where it has none for this preset, number of samples and acceleration",
    )
    fallback: bool = Field(
        False,
        description="deliver the classical image (L1-wavelet) in place of the posterior mean where "
        "the verdict is not `trusted`: in `reconstruction`, DICOM and NIfTI",
    )
    accept_refused: bool = Field(
        False,
        description="deliver the posterior mean also where the verdict is `refused`; otherwise the "
        "image of such a slice is empty",
    )
    compress_above: int = Field(12, ge=0, le=1024, description="coil compression above; 0: never")
    priority: Priority = Field(Priority.INTERACTIVE, description="scanner, interactive, archive")
    deadline_s: float | None = Field(
        None, gt=0, le=_WEEK, description="seconds from now; chooses preset and samples"
    )
    target_mc_error: float | None = Field(
        None,
        ge=0.02,
        le=1,
        description="Monte Carlo error of the mean over the posterior's standard deviation "
        "(median over the object); chooses preset and samples",
    )
    identified: bool = Field(
        False, description="keep the patient's name, numbers and dates in DICOM"
    )
    voxel_mm: Annotated[
        tuple[Millimetres, Millimetres, Millimetres] | None, BeforeValidator(_separated)
    ] = Field(
        None,
        description="rows, columns, slices: take images for axial ones of this size where the scan "
        "does not say where they lie [the header's field of view]",
    )
    bids_name: Annotated[str, StringConstraints(max_length=200, pattern=BIDS_NAME)] | None = Field(
        None,
        description="name of the raw image in a BIDS dataset, as sub-01_T1w; makes bids.zip",
    )

    @field_validator("bids_name")
    @classmethod
    def _in_bids(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                BidsName.of(value)
            except ScanError as error:
                raise ValueError(error.message) from error
        return value

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        chooses = self.deadline_s is not None or self.target_mc_error is not None
        if chooses and (self.samples is not None or self.preset is not None):
            raise ValueError(
                "deadline_s and target_mc_error choose preset and samples; give one or the other"
            )
        if chooses and self.calibrated:
            raise ValueError(
                "a conformal factor belongs to one preset and number of samples; name them in "
                "place of deadline_s and target_mc_error, or leave calibrated out"
            )
        return self


class ReconstructionParameters(ReconstructionChoices):
    """How to reconstruct, and under which names to find it again."""

    tags: dict[TagName, Tag] = Field(default_factory=dict, max_length=16)


class ReconstructionRequest(ReconstructionParameters):
    """A reconstruction of a scan that was uploaded before."""

    scan_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
