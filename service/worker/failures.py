"""What a client may know of a step that failed."""

from __future__ import annotations

import structlog
import torch

from models.errors import ModelError
from recon.errors import ReconError
from service.conformal_scaling import REFUSALS
from service.problems import ProblemError, is_full, problem_of

log = structlog.get_logger()


def problem_of_failure(error: Exception, job_id: str, step: str) -> ProblemError:
    """The problem that a step's exception is; the unforeseen is logged."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ReconError):
        return problem_of(error)
    if isinstance(error, ModelError) and error.code in REFUSALS:
        return ProblemError("no-calibration", error.message, reason=error.code)
    if isinstance(error, ModelError):
        return ProblemError("unknown-model", error.message)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        text = (
            "the volume does not fit; choose fewer slices, or leave `volume` out"
            if step == "volume"
            else "the slice does not fit; ask for fewer samples"
        )
        return ProblemError("gpu-out-of-memory", text)
    if is_full(error):
        text = "the disk of the service is full; try again when there is room"
        return ProblemError("storage-full", text)
    log.error("step failed", job=job_id, step=step, exc_info=error)
    return ProblemError("internal", "the step failed unexpectedly; the service's log says more")
