"""What is told of a reconstruction: how far it is, and in the end its report.

`Report` is the one description of what `report.json` holds, of `summary` in the job table and in
every answer about a job; the viewer's types are generated from it. A field that is added later has
a default, for reports that were stored before it are read with the same class; what is unknown is
ignored.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recon.planes import ATTRIBUTE, ImagePlane, ImageStack
from recon.posterior import LEFT_OUT, PLAIN, Delivery, SelfCheck, Shown, SlicePosterior
from recon.scan import Scan
from recon.verdict import Cause, Trust, Verdict

_OBLIQUE = 0.26
"""Sine of 15 degrees: what a direction must lean to another axis to be named after it too."""
_BRIGHTEST = 99.7


class _Part(BaseModel):
    """Never changed, read whatever its age, written under the names of the wire."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="ignore",
        validate_by_name=True,
        serialize_by_alias=True,
        json_schema_serialization_defaults_required=True,
    )


class Progress(_Part):
    """How far a running reconstruction is."""

    phase: str
    stage: str | None = None
    fraction: float
    slice: int | None = Field(None, description="its number in the scan")
    position: int | None = Field(None, description="of that slice, among those asked for")
    slices: int | None = Field(None, description="how many are asked for")
    eta_s: float | None = None
    updated_at: datetime | None = None


class Plan(_Part):
    """What a deadline or target was turned into."""

    preset: str
    samples: int
    self_check: bool
    expected_seconds: float | None = Field(None, description="of all slices; null: not measured")


class ProductFile(_Part):
    """A file that was made."""

    name: str
    media_type: str
    bytes: int
    sha256: str


class ImageReport(_Part):
    """How large the images are."""

    shape: tuple[int, int] = Field(description="rows, columns")
    pixel_mm: tuple[float, float] | None = Field(
        None, description="height and width; null: the scan does not say"
    )
    slice_mm: float | None = Field(None, description="from slice to slice; null: not known")
    slice_sides: tuple[str, str] | None = Field(
        None, description="sides of the patient before the first slice and behind the last one"
    )

    @classmethod
    def of(
        cls,
        scan: Scan,
        shape: tuple[int, int],
        given: tuple[float, float, float] | None = None,
    ) -> ImageReport:
        """From the header, else as who sent the scan says (`given`, in mm).

        A header without planes knows the thickness of its slab only.
        """
        view, matrix = scan.geometry.field_of_view_mm, scan.geometry.recon_shape
        planes = planes_of(scan)
        pixel = given and given[:2]
        if view is not None and matrix is not None:
            # The header's x is the readout, which is our rows.
            pixel = (view[0] / matrix[0], view[1] / matrix[1])
        thick = given and given[2]
        if planes is not None:
            thick = planes.voxel_mm[2]
        elif view is not None:
            thick = view[2]
        return cls(
            shape=shape,
            pixel_mm=pixel,
            slice_mm=thick,
            slice_sides=None if planes is None else _stack_sides(planes),
        )


class Edges(_Part):
    """Which side of the patient each edge of the picture is nearest to: R, L, A, P, F or H."""

    top: str
    bottom: str
    left: str
    right: str

    @classmethod
    def of(cls, plane: ImagePlane) -> Edges:
        """Two letters, the larger component first, where a direction is oblique."""
        return cls(
            top=_side(-np.array(plane.read_dir)),
            bottom=_side(np.array(plane.read_dir)),
            left=_side(-np.array(plane.phase_dir)),
            right=_side(np.array(plane.phase_dir)),
        )


class SelfCheckReport(_Part):
    """How well acquired lines were predicted by a second, short run that did not see them."""

    lines: int = Field(description="held out; samples, for a two-dimensional mask")
    residual_std: float = Field(description="of error over predicted deviation; 1 when honest")
    coverage_50: float = Field(description="share inside the 50 % intervals")
    coverage_90: float = Field(description="share inside the 90 % intervals")
    ratio: float | None = Field(
        None, description="squared error over what was expected of it; null in old reports"
    )
    freedom: float | None = Field(
        None, description="independent components that the ratio rests on; null in old reports"
    )

    @classmethod
    def of(cls, check: SelfCheck | None) -> SelfCheckReport | None:
        """None where there was none."""
        if check is None:
            return None
        known = {name: value for name, value in vars(check).items() if math.isfinite(value)}
        return cls.model_validate({"ratio": None, "freedom": None} | known)


class VerdictReport(_Part):
    """How far a slice, or the whole scan, may be trusted, and if not what to do."""

    trust: Trust = Field(
        description="`doubtful`: something speaks against the prior, the coil maps, the noise or "
        "the patient; `refused`: nothing to reconstruct, or the result contradicts the scan"
    )
    cause: Cause | None = Field(description="what is not as it was assumed; null: nothing is known")
    sentence: str = Field(description="which of these it is, and what to do")
    p_value: float | None = Field(
        description="how often chance alone finds as much against a right scan; null: not tested"
    )

    @classmethod
    def of(cls, verdict: Verdict | None) -> VerdictReport | None:
        """None where there was none."""
        if verdict is None:
            return None
        known = math.isfinite(verdict.p_value)
        return cls(
            trust=verdict.trust,
            cause=verdict.cause,
            sentence=verdict.sentence,
            p_value=verdict.p_value if known else None,
        )


class SliceReport(_Part):
    """Whether one slice may be trusted, and how it is shown."""

    slice: int = Field(description="its number in the scan")
    converged: bool = Field(description="the chains agree and the residual is as the noise")
    verdict: VerdictReport | None = Field(None, description="null in old reports")
    shown: Shown = Field(
        Shown.POSTERIOR, description="what other programs get as the image of this slice"
    )
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = Field(
        (), description="checks that could not be made, which says nothing against the scan"
    )
    edges: Edges | None = Field(None, description="null: the scan does not say where it lies")
    chi2: float = Field(description="mean squared residual over the noise variance; 1 when right")
    chi2_per_coil: tuple[float, ...] | None = Field(
        None, description="of every virtual coil; null in old reports"
    )
    mixed: float | None = Field(
        alias="rhat_below_1.1", description="share of the object with split R-hat below 1.1"
    )
    noise_over_scale: float = Field(description="noise level over the scale of the image")
    window: float = Field(description="magnitude to show as white: 99.7 % are below")
    self_check: SelfCheckReport | None = None

    @classmethod
    def of(
        cls, posterior: SlicePosterior, planes: ImageStack | None, delivery: Delivery = PLAIN
    ) -> SliceReport:
        """What is said of one slice."""
        known = posterior.rhat[posterior.object_mask & np.isfinite(posterior.rhat)]
        return cls(
            slice=posterior.index,
            converged=posterior.converged,
            verdict=VerdictReport.of(posterior.verdict),
            shown=delivery.shows(posterior),
            warnings=tuple(text for text in posterior.warnings if text not in LEFT_OUT),
            notes=tuple(text for text in posterior.warnings if text in LEFT_OUT),
            edges=None if planes is None else Edges.of(planes.planes[posterior.index]),
            chi2=float(posterior.chi2_per_coil.mean()),
            chi2_per_coil=tuple(float(value) for value in posterior.chi2_per_coil),
            mixed=float((known < 1.1).mean()) if known.size else None,
            noise_over_scale=posterior.noise_std / posterior.scale,
            window=float(np.percentile(np.abs(posterior.mean), _BRIGHTEST)),
            self_check=SelfCheckReport.of(posterior.self_check),
        )


class AppliedFactor(_Part):
    """The conformal factor that intervals and standard deviations were multiplied by."""

    factor: float
    level: float = Field(description="share of true values that the outer intervals are to hold")
    confidence: float = Field(description="share of further scans for which that is promised")
    unit: Literal["scan", "slice"] = Field(description="what was counted as exchangeable")
    units: int = Field(description="how many of them it was computed on")
    scans: int = Field(description="from how many scans they came")
    data: str = Field(description="what they were")
    date: str


class Reached(_Part):
    """What was asked for, and what came of it."""

    mc_error: float | None = Field(
        description="Monte Carlo error of the mean over the posterior's standard deviation, median"
    )
    target_mc_error: float | None
    seconds_since_submission: float
    deadline_s: float | None
    deadline_met: bool | None = Field(description="null: there was none")


class Report(_Part):
    """What was asked, what was chosen, what was reached."""

    id: str
    scan_sha256: str
    model: str
    preset: str
    samples: int = Field(description="chains, one independent sample each")
    seed: int
    evaluations_per_chain: int = Field(description="of the network")
    calibration: AppliedFactor | None = Field(None, description="null: intervals are plain ones")
    not_for_diagnostic_use: Literal[True] = True
    image: ImageReport | None = Field(None, description="null in the oldest reports")
    reached: Reached
    verdict: VerdictReport | None = Field(None, description="on the scan; null in old reports")
    slices: tuple[SliceReport, ...]
    joint: bool = Field(
        False,
        description="samples of neighbouring slices were drawn together, so that a sample is one "
        "volume",
    )
    volume: bool = Field(False, description="the slices were sampled as one volume")
    products: tuple[ProductFile, ...] = Field(
        (), description="what was made before the report itself"
    )

    def slice(self, index: int) -> SliceReport | None:
        """The slice of this number in the scan."""
        return next((entry for entry in self.slices if entry.slice == index), None)


def planes_of(scan: Scan) -> ImageStack | None:
    """Where the slices lie, as far as the scan says it."""
    text = scan.attributes.get(ATTRIBUTE)
    return ImageStack.from_text(text) if isinstance(text, str) else None


def _stack_sides(planes: ImageStack) -> tuple[str, str] | None:
    """What lies before the first and behind the last slice; None where they lie on each other."""
    along = np.array(planes.planes[-1].position) - np.array(planes.planes[0].position)
    length = float(np.linalg.norm(along))
    return None if length == 0 else (_side(-along / length), _side(along / length))


def _side(direction: NDArray[np.float64]) -> str:
    letters = [pair[int(x > 0)] for pair, x in zip(("RL", "AP", "FH"), direction, strict=True)]
    order = np.argsort(-np.abs(direction))[:2]
    return "".join(letters[axis] for axis in order if abs(direction[axis]) > _OBLIQUE)
