"""How to reconstruct."""

from __future__ import annotations

from dataclasses import dataclass, field

from recon.calibration import CalibrationSettings
from recon.choices import COHERENCE
from recon.coarse import CoarseMethod
from recon.paths import AnnealingPath, PriorPath
from recon.presets import Preset, preset_of


@dataclass(frozen=True)
class Settings:
    """How to reconstruct; the defaults need no thought."""

    preset: str = "standard"
    samples: int | None = None
    """Chains, one independent sample each; None takes the preset's."""
    seed: int = 0
    coarse: CoarseMethod = CoarseMethod.CG_SENSE
    path: AnnealingPath = field(default_factory=PriorPath)
    fit_noise: bool = True
    """Re-estimate the noise level when the residual contradicts it."""
    self_check: bool = True
    symmetry: bool = True
    """Ask a prior that has them about random flips, transposes and conjugates of the images."""
    slice_coherence: float = COHERENCE
    """Over how many sides of a pixel along a stack the finest details of samples hold together,
    coarser ones over as much more (`recon.stacks`); 0 samples every slice by itself."""
    volume: bool = False
    """Sample the slices as one volume (`recon.volumes`): for scans with two phase encodings."""
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @property
    def resolved(self) -> Preset:
        """The preset with the number of chains asked for."""
        return preset_of(self.preset, self.samples)
