"""What can go wrong, as RFC 9457 problems: one table, used by answers and by failed jobs alike."""

from __future__ import annotations

from typing import Any

from recon.errors import CalibrationError, ConvergenceError, ReconError

PROBLEMS: dict[str, tuple[int, str]] = {
    "invalid-request": (400, "The request is not understood"),
    "invalid-parameter": (422, "A parameter is not valid"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "This is not allowed"),
    "not-found": (404, "There is no such resource"),
    "method-not-allowed": (405, "The resource does not know this method"),
    "not-acceptable": (406, "The answer is not available in this form"),
    "unknown-preset": (422, "There is no such preset"),
    "unknown-model": (404, "There is no such model"),
    "no-calibration": (422, "The model has no conformal factor for this reconstruction"),
    "unsupported-media-type": (415, "This kind of body is not accepted here"),
    "not-hdf5": (422, "The file is not HDF5"),
    "unsafe-hdf5": (422, "The HDF5 file uses features that are not allowed"),
    "invalid-scan": (422, "The scan cannot be used"),
    "calibration-failed": (422, "Noise or coil maps cannot be found"),
    "diverged": (422, "The sampler gave up on a slice"),
    "upload-too-large": (413, "The body is larger than allowed"),
    "digest-mismatch": (400, "The body does not have the digest that was announced"),
    "upload-incomplete": (400, "The body ended early"),
    "checksum-mismatch": (460, "The part does not have the checksum that was announced"),
    "offset-mismatch": (409, "The part does not begin where the upload ends"),
    "upload-locked": (423, "Another request is writing this upload"),
    "upload-expired": (410, "The upload has expired"),
    "tus-version": (412, "This version of tus is not spoken here"),
    "scan-in-use": (409, "An unfinished job needs the scan"),
    "idempotency-conflict": (422, "The idempotency key was used with another request"),
    "idempotency-in-flight": (409, "A request with this idempotency key is still at work"),
    "id-reused": (422, "The id was used with another request"),
    "queue-full": (429, "The queue is full"),
    "rate-limited": (429, "Too many requests"),
    "quota-exceeded": (429, "Too many unfinished jobs"),
    "storage-full": (507, "The disk is full"),
    "not-ready": (503, "The service is not ready"),
    "job-not-finished": (409, "The job has not finished"),
    "job-without-result": (409, "The job ended without a result"),
    "result-expired": (410, "The results have been removed"),
    "already-finished": (409, "The job has already finished"),
    "range-not-satisfiable": (416, "The range lies outside the resource"),
    "precondition-failed": (412, "The resource has changed"),
    "precondition-required": (428, "The request must say which version it changes"),
    "gpu-out-of-memory": (507, "The GPU has too little memory"),
    "client-disconnect": (499, "The client went away before its measurement was complete"),
    "unknown-target": (404, "There is no such target"),
    "delivery-failed": (502, "The target did not take the images"),
    "worker-lost": (500, "The worker died while it worked on the job"),
    "internal": (500, "Something went wrong in the service"),
}
"""Type: status and title. Types are relative URIs below /problems/."""

_NOT_HDF5 = {"not-hdf5", "empty-file", "not-a-file"}
_UNSAFE = {
    "attribute-too-large",
    "chunk-too-large",
    "expands-too-much",
    "external-link",
    "external-storage",
    "filter-not-allowed",
    "layout",
    "link",
    "object-name",
    "object-type",
    "soft-link",
    "too-deep",
    "too-large",
    "too-many-attributes",
    "too-many-objects",
    "type-not-allowed",
    "virtual-layout",
}


class ProblemError(Exception):
    """A refusal that a client can act on."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the type."""
        return PROBLEMS[self.kind][0]

    def document(self) -> dict[str, Any]:
        """The problem as a JSON object."""
        status, title = PROBLEMS[self.kind]
        return {
            "type": f"/problems/{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            **self.members,
        }


def problem_of(error: ReconError) -> ProblemError:
    """The problem that a refused file or a failed reconstruction is."""
    if isinstance(error, CalibrationError):
        kind = "calibration-failed"
    elif isinstance(error, ConvergenceError):
        kind = "diverged"
    elif error.code in _NOT_HDF5:
        kind = "not-hdf5"
    elif error.code in _UNSAFE:
        kind = "unsafe-hdf5"
    else:
        kind = "invalid-scan"
    return ProblemError(kind, error.message, reason=error.code)
