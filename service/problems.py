"""What can go wrong, as RFC 9457 problems: one table, used by answers and by failed jobs alike."""

from __future__ import annotations

import errno
from typing import Annotated, NamedTuple, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from recon.errors import CalibrationError, ConvergenceError, ReconError


class Kind(NamedTuple):
    """A type of problem."""

    status: int
    title: str
    advice: str
    """What to do about it; the documentation shows the same."""


class FieldProblem(TypedDict):
    """One thing wrong with one field."""

    pointer: str
    detail: str


@with_config(ConfigDict(extra="allow"))
class Problem(TypedDict):
    """A refusal, after RFC 9457, as it is answered and kept with what failed."""

    type: Annotated[str, Field(description="a relative URI below /problems/")]
    title: str
    status: int
    detail: str
    reason: NotRequired[Annotated[str, Field(description="code of the error, where it has one")]]
    instance: NotRequired[str]
    request_id: NotRequired[str]
    errors: NotRequired[list[FieldProblem]]


PROBLEMS: dict[str, Kind] = {
    "invalid-request": Kind(
        400,
        "The request is not understood",
        "The request could not be parsed, or a header contradicts another. The detail names what.",
    ),
    "invalid-parameter": Kind(
        422,
        "A parameter is not valid",
        "One field is wrong; `errors` has its place and what was expected. Compare with the "
        "HTTP API; unknown names are refused, so look for spelling.",
    ),
    "request-timeout": Kind(
        408,
        "The request did not become complete in time",
        "The line and headers of a request have 10 s to arrive. A connection that is opened ahead "
        "may stay silent as long; open it again when there is something to ask.",
    ),
    "address-too-long": Kind(
        414,
        "The address of the request is too long",
        "An address may have 8 KiB. Send parameters as JSON in the body.",
    ),
    "headers-too-large": Kind(
        431,
        "The headers of the request are too large",
        "A request may have 100 headers of 64 KiB together, and as much behind a chunked body. "
        "Cookies of other services on the same host are the usual cause.",
    ),
    "unauthorized": Kind(
        401,
        "A valid API key is needed",
        "Send `Authorization: Bearer TOKEN`. Make a key with `mri-posterior keys create "
        "NAME`; see with `keys list` whether yours has expired or was revoked.",
    ),
    "forbidden": Kind(
        403,
        "This is not allowed",
        "The key lacks the scope (`read`, `write`, `admin`), or a browser page of another "
        "origin asked, or the host name is not served. Add names of this machine to "
        "`MRI_POSTERIOR_ALLOWED_HOSTS`. Behind a proxy, pass `Host` on as it came.",
    ),
    "not-found": Kind(
        404,
        "There is no such resource",
        "Nothing has this id, or it belongs to another key. Keys see only what they made.",
    ),
    "method-not-allowed": Kind(
        405,
        "The resource does not know this method",
        "The path is right, the method is not. `/docs` of the service lists both.",
    ),
    "not-acceptable": Kind(
        406,
        "The answer is not available in this form",
        "Ask for a form that exists, or leave `Accept` out.",
    ),
    "unknown-preset": Kind(
        422,
        "There is no such preset",
        "`GET /v1/presets` lists them: fast, standard, thorough.",
    ),
    "unknown-model": Kind(
        404,
        "There is no such model",
        "`GET /v1/models` lists what the workers offer. A model added with `mri-posterior "
        "models add` is seen when workers start again.",
    ),
    "no-calibration": Kind(
        422,
        "The model has no conformal factor for this reconstruction",
        "`calibrated` was asked for, and the model's `calibration.json` has no entry for this "
        "preset, number of samples and acceleration (within 10 %), or it cannot be used. The "
        "detail lists what there is. Ask for one of these, compute your own with "
        "`mri-posterior calibrate`, or leave `calibrated` out: a factor is never carried over "
        "from something else.",
    ),
    "unsupported-media-type": Kind(
        415,
        "This kind of body is not accepted here",
        "Send the scan as it is (`application/x-hdf5` or `application/octet-stream`), as "
        "multipart, or JSON that names a scan.",
    ),
    "not-hdf5": Kind(
        422,
        "The file is of no format that is read",
        "HDF5 (ISMRMRD, fastMRI and other layouts), Siemens raw data and NumPy arrays are read. "
        "An empty file, a zip, DICOM or another vendor's raw data are not: the detail says what "
        "the file is and what to do.",
    ),
    "unsafe-hdf5": Kind(
        422,
        "The HDF5 file uses features that are not allowed",
        "Links, external storage, virtual datasets, rare filters and very large declarations "
        "are refused before anything is read; `reason` says which and the detail where. Copy "
        "the arrays into a new file: `h5py.File(new, 'w')['kspace'] = array`.",
    ),
    "invalid-scan": Kind(
        422,
        "The scan cannot be used",
        "The file is HDF5, but not a scan that can be used: wrong shape, not complex, NaN, a "
        "trajectory that is not read, no samples. `reason` is one of the error codes.",
    ),
    "calibration-failed": Kind(
        422,
        "Noise or coil maps cannot be found",
        "Noise or coil maps cannot be estimated. Usually the fully sampled centre has fewer "
        "than 6 lines, or than 12 x 12 samples: acquire more, or hand in `coil_maps`.",
    ),
    "diverged": Kind(
        422,
        "The sampler gave up on a slice",
        "The sampler left the region where its images mean anything, twice; it never returns "
        "a wrong image instead. Noise level or coil maps are probably wrong: look for "
        "wrap-around, a vendor's filter, a mask that does not fit.",
    ),
    "no-volume": Kind(
        422,
        "The scan cannot be sampled as one volume",
        "`volume` is for scans with two phase encodings, whose slices lie evenly spaced in one "
        "stack and whose voxels are nearly cubes. The detail says what is not so here. Leave "
        "`volume` out: slices are then sampled one by one, and hold together all the same.",
    ),
    "volume-too-large": Kind(
        422,
        "The volume needs more memory than allowed",
        "`needed_bytes` is what its worker would need at once, `allowed_bytes` what the operator "
        "has set (`MRI_POSTERIOR_MAX_VOLUME_BYTES`); the number of samples changes nothing. Choose "
        "fewer `slices`, compress coils (`compress_above`), or leave `volume` out. "
        "`GET /v1/limits/volume` tells it before.",
    ),
    "upload-too-large": Kind(
        413,
        "The body is larger than allowed",
        "Larger than `MRI_POSTERIOR_MAX_UPLOAD_BYTES` (8 GiB) or, for JSON, "
        "`MRI_POSTERIOR_MAX_JSON_BYTES`. `GET /v1/limits` says both. A 413 that is HTML comes "
        "from the proxy: `client_max_body_size 0`.",
    ),
    "digest-mismatch": Kind(
        400,
        "The body does not have the digest that was announced",
        "The body changed on its way, or `Content-Digest` is of another file. Send it again.",
    ),
    "upload-incomplete": Kind(
        400,
        "The body ended early",
        "The connection ended early. Send again, or use resumable uploads (`/v1/uploads`, tus "
        "1.0).",
    ),
    "checksum-mismatch": Kind(
        460,
        "The part does not have the checksum that was announced",
        "One part of a tus upload arrived damaged. Clients send that part again by themselves.",
    ),
    "offset-mismatch": Kind(
        409,
        "The part does not begin where the upload ends",
        "The part does not begin where the upload ends. `HEAD` the upload and go on at "
        "`Upload-Offset`.",
    ),
    "upload-locked": Kind(
        423,
        "Another request is writing this upload",
        "Another request is still writing this upload: often one whose connection broke. Try "
        "again in a few seconds.",
    ),
    "upload-expired": Kind(
        410,
        "The upload has expired",
        "Unfinished uploads live for 24 hours (`MRI_POSTERIOR_UPLOAD_EXPIRY_HOURS`). Begin anew.",
    ),
    "tus-version": Kind(
        412,
        "This version of tus is not spoken here",
        "Send `Tus-Resumable: 1.0.0`.",
    ),
    "scan-in-use": Kind(
        409,
        "An unfinished job needs the scan",
        "An unfinished job needs this scan. Cancel the job or wait for it, then delete.",
    ),
    "idempotency-conflict": Kind(
        422,
        "The idempotency key was used with another request",
        "The same `Idempotency-Key` came with another request. Use a new key for a new request.",
    ),
    "idempotency-in-flight": Kind(
        409,
        "A request with this idempotency key is still at work",
        "The first request with this key is still being answered. Wait and repeat it unchanged.",
    ),
    "id-reused": Kind(
        422,
        "The id was used with another request",
        "The id in `PUT /v1/reconstructions/ID` belongs to another request. Choose another id.",
    ),
    "queue-full": Kind(
        429,
        "The queue is full",
        "`MRI_POSTERIOR_MAX_QUEUE` jobs wait. Wait as `Retry-After` says, add workers, or "
        "choose a shorter preset.",
    ),
    "rate-limited": Kind(
        429,
        "Too many requests",
        "Too many requests of one key (`MRI_POSTERIOR_REQUESTS_PER_MINUTE`) or open event "
        "streams (`MRI_POSTERIOR_MAX_STREAMS`). Follow events instead of polling; close "
        "streams.",
    ),
    "quota-exceeded": Kind(
        429,
        "Too many unfinished jobs",
        "One key has `MRI_POSTERIOR_MAX_ACTIVE_PER_KEY` unfinished jobs.",
    ),
    "storage-full": Kind(
        507,
        "The disk is full",
        "Free space fell below `MRI_POSTERIOR_DISK_FLOOR_BYTES` (1 GiB). Delete "
        "reconstructions and scans, or enlarge the volume.",
    ),
    "not-ready": Kind(
        503,
        "The service is not ready",
        "The database does not answer, or no worker has started yet. `GET /readyz` says which "
        "check fails; the log says why.",
    ),
    "job-not-finished": Kind(
        409,
        "The job has not finished",
        "Results exist when the job has succeeded. Wait: `Prefer: wait=60`, or its events.",
    ),
    "job-without-result": Kind(
        409,
        "The job ended without a result",
        "The job failed or was cancelled. Its `error` says why; `POST …/retry` runs it again.",
    ),
    "result-expired": Kind(
        410,
        "The results have been removed",
        "The service keeps results for `keep_results_days`. `POST …/retry` makes them again "
        "while the scan is there.",
    ),
    "already-finished": Kind(
        409,
        "The job has already finished",
        "A finished job cannot be cancelled.",
    ),
    "range-not-satisfiable": Kind(
        416,
        "The range lies outside the resource",
        "The range begins behind the end of the file. `HEAD` tells the length.",
    ),
    "precondition-failed": Kind(
        412,
        "The resource has changed",
        "The result changed since you saw its `ETag`. Fetch it again.",
    ),
    "precondition-required": Kind(
        428,
        "The request must say which version it changes",
        "Send `If-Match` with the `ETag` that you saw, or with `*`.",
    ),
    "gpu-out-of-memory": Kind(
        507,
        "The GPU has too little memory",
        "The slice does not fit beside what else uses the GPU. Ask for fewer `samples`, "
        "compress coils, or give the worker a GPU of its own.",
    ),
    "client-disconnect": Kind(
        499,
        "The client went away before its measurement was complete",
        "A scanner's session ended early. What had arrived is kept with the job; measure "
        "again, or send the session again.",
    ),
    "unknown-target": Kind(
        404,
        "There is no such target",
        "Targets are configured on the server (`delivery_targets`), never sent by clients. "
        "Ask for one by a name that the operator has set.",
    ),
    "delivery-failed": Kind(
        502,
        "The target did not take the images",
        "The delivery says what the target answered for each instance. Put right what it "
        "names (address, credentials, patient or study rules of the archive), then deliver "
        "again.",
    ),
    "worker-lost": Kind(
        500,
        "The worker died while it worked on the job",
        "One slice took its worker down three times (`MRI_POSTERIOR_MAX_ATTEMPTS`): most "
        "often main memory. Look into the kernel's log for an out-of-memory kill.",
    ),
    "file-lost": Kind(
        500,
        "The service has lost a file",
        "A scan or a result that the service kept is no longer in its storage: somebody removed "
        "it, or the disk was changed. Bring it back (`mri-posterior restore`), or upload the scan "
        "and reconstruct again.",
    ),
    "internal": Kind(
        500,
        "Something went wrong in the service",
        "A bug. The log has the request's id (`x-request-id`) and a traceback; please report "
        "both, without patient data.",
    ),
}
"""By type, a relative URI below /problems/."""

_NOT_HDF5 = {"not-hdf5", "empty-file", "not-a-file", "unknown-format", "format-not-read"}
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
        return PROBLEMS[self.kind].status

    def document(self) -> Problem:
        """The problem as a JSON object."""
        status, title, _ = PROBLEMS[self.kind]
        told = Problem(
            type=f"/problems/{self.kind}", title=title, status=status, detail=self.detail
        )
        return {**told, **self.members}  # type: ignore[typeddict-item]  # others may be added


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk, or what somebody may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def problem_of(error: ReconError) -> ProblemError:
    """The problem that a refused file or a failed reconstruction is."""
    if isinstance(error, CalibrationError):
        kind = "calibration-failed"
    elif isinstance(error, ConvergenceError):
        kind = "diverged"
    elif error.code == "no-volume":
        kind = "no-volume"
    elif error.code in _NOT_HDF5:
        kind = "not-hdf5"
    elif error.code in _UNSAFE:
        kind = "unsafe-hdf5"
    else:
        kind = "invalid-scan"
    return ProblemError(kind, error.message, reason=error.code)
