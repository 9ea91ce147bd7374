"""The service from Python: submit a scan, wait for it, download what was made of it.

with Client("http://127.0.0.1:8080") as client:
    posterior = client.reconstruct(Path("scan.h5"), preset="fast")
    low, high = posterior.interval(0.9)

or step by step: `submit`, `wait`, then `posterior` or `download`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict

from service.products import RESULT
from service.region_answers import PlaneName, RegionAnswer
from service.report import Progress, Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recon.arrays import Posterior

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TRANSIENT = frozenset({429, 502, 503, 504})


class ServiceError(Exception):
    """The service refused, or could not be reached; `code` is the problem's type."""

    def __init__(self, code: str, message: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.problem = problem or {}


class Reconstruction(BaseModel):
    """What the service says of a reconstruction."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    state: str
    progress: Progress | None
    attempt: int
    queue_position: int | None
    created_at: datetime
    finished_at: datetime | None
    summary: Report | None
    error: dict[str, Any] | None
    links: dict[str, str]

    @property
    def ended(self) -> bool:
        """Whether it can change no more."""
        return self.finished_at is not None


@dataclass(frozen=True)
class Event:
    """Something that happened to a reconstruction."""

    id: int
    type: str
    data: dict[str, Any]


class Client:
    """One server and one API key; requests that fail in transit are repeated, without harm."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def upload(self, scan: Path, *, layout: str | None = None, axes: str | None = None) -> str:
        """Upload a scan, unless the server has it; returns its id.

        `layout` or `axes` say how its arrays are to be read, where what it holds does not. Raises
        ServiceError.
        """
        with scan.open("rb") as file:
            digest = file_digest(file, "sha256")
        known = self._ask("GET", "/v1/scans", params={"sha256": digest.hexdigest()}).json()
        if known["items"]:
            return str(known["items"][0]["id"])
        announced = base64.b64encode(digest.digest()).decode()
        headers = {
            "Content-Type": "application/x-hdf5",
            "Content-Digest": f"sha-256=:{announced}:",
            "Content-Length": str(scan.stat().st_size),
        }
        said = {"layout": layout, "axes": axes}
        reading = {name: value for name, value in said.items() if value is not None}
        answer = self._ask(
            "POST", "/v1/scans", params=reading, headers=headers, stream=lambda: _blocks(scan)
        )
        return str(answer.json()["id"])

    def submit(
        self,
        scan: Path,
        *,
        calibration: Path | None = None,
        **parameters: Any,  # noqa: ANN401
    ) -> Reconstruction:
        """Upload a scan and queue its reconstruction; parameters are those of the API.

        `calibration` is another file, whose lines make the coil maps. Raises ServiceError.
        """
        reading = {name: parameters.get(name) for name in ("layout", "axes")}
        body = {"scan_id": self.upload(scan, **reading)}
        if calibration is not None:
            body["calibration_scan_id"] = self.upload(calibration, **reading)
        body |= {name: value for name, value in parameters.items() if value is not None}
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        answer = self._ask("POST", "/v1/reconstructions", headers=headers, body=body)
        return Reconstruction.model_validate(answer.json())

    def get(self, job_id: str, *, wait: int = 0) -> Reconstruction:
        """How far it is, or how it ended; waits so many seconds for the end.

        Raises ServiceError.
        """
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = self._ask("GET", f"/v1/reconstructions/{job_id}", headers=headers)
        return Reconstruction.model_validate(answer.json())

    def wait(
        self, job_id: str, on_progress: Callable[[Progress], None] | None = None
    ) -> Reconstruction:
        """The reconstruction once it has ended. Raises ServiceError when it did not succeed."""
        job = self.get(job_id)
        if on_progress is not None and not job.ended:
            for event in self.events(job_id):
                if event.type == "progress":
                    on_progress(Progress.model_validate(event.data))
        while not job.ended:
            job = self.get(job_id, wait=30)
        if job.state != "succeeded":
            problem = job.error or {"type": f"/problems/{job.state}"}
            detail = problem.get("detail", f"the reconstruction was {job.state}")
            raise ServiceError(_code(problem), str(detail), problem)
        return job

    def events(self, job_id: str, last: int = 0) -> Iterator[Event]:
        """What happens until the end; a stream that breaks is taken up again behind `last`.

        Raises ServiceError.
        """
        failures = 0
        while True:
            try:
                over = self.get(job_id).ended
                for event in self._stream(job_id, last):
                    last, failures = event.id, 0
                    yield event
                    if event.type == "end":
                        return
                if over:
                    return  # the end was seen before
            except httpx.HTTPError as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise _unreachable(error) from error
            time.sleep(0.5 * 2**failures)

    def download(self, job: Reconstruction, target: Path, name: str = RESULT) -> Path:
        """Write a product to `target`, checked against its digest. Raises ServiceError."""
        aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            with aside.open("xb") as file:
                digest = self._fetch(f"{job.links['results']}/{name}", file)
                file.flush()
                os.fsync(file.fileno())
            if digest is None:
                raise ServiceError("digest-mismatch", "the download arrived damaged; try again")
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    def posterior(self, job: Reconstruction) -> Posterior:
        """The posterior that a reconstruction has found, as `recon.open_result` gives it.

        Raises ServiceError, ScanError.
        """
        from recon.arrays import open_result  # lazy: loads HDF5, and most uses need none

        with tempfile.TemporaryDirectory(prefix="mri-posterior-") as folder:
            return open_result(self.download(job, Path(folder) / "result.h5"))

    def region(
        self,
        job_id: str,
        region: NDArray[np.bool_] | Sequence[tuple[float, float]],
        reference: NDArray[np.bool_] | Sequence[tuple[float, float]] | None = None,
        *,
        slice: int,
        through: int | None = None,
        plane: PlaneName = "slices",
        unit: Literal["voxel", "mm"] = "voxel",
    ) -> RegionAnswer:
        """The mean of a region, the difference to a second one, and how sure they are.

        A region is a boolean mask or a polygon of corners (row, column), in one slice or, with
        `through`, in each from `slice` to that; a mask of (slices, rows, columns) has them all.

        With the plane "rows" it lies in the picture of one row over all slices: corners are
        (slice, column), masks (slices of the result, columns) or (rows, slices, columns), and
        `slice` and `through` number rows. With "columns" corners are (slice, row), masks (slices,
        rows) or (columns, slices, rows), and columns are numbered. Corners are in voxels, slices
        as the scan counts them, or in mm from the centre of the first voxel.

        Raises ServiceError.
        """
        parts = [part for part in (region, reference) if part is not None]
        deep = [part for part in parts if getattr(part, "ndim", 0) == 3]
        if through is None and deep:
            through = slice + len(deep[0]) - 1
        question: dict[str, Any] = {"slice": slice, "through": through, "region": _region(region)}
        question |= {} if plane == "slices" else {"plane": plane}  # older services know none
        question |= {} if unit == "voxel" else {"unit": unit}
        if reference is not None:
            question["reference"] = _region(reference)
        answer = self._ask("POST", f"/v1/reconstructions/{job_id}/roi", body=question)
        return RegionAnswer.model_validate(answer.json())

    def reconstruct(
        self,
        scan: Path,
        on_progress: Callable[[Progress], None] | None = None,
        **parameters: Any,  # noqa: ANN401
    ) -> Posterior:
        """Submit a scan, wait, and give its posterior; parameters are those of the API.

        Raises ServiceError, ScanError.
        """
        job = self.submit(scan, **parameters)
        return self.posterior(self.wait(job.id, on_progress))

    def cancel(self, job_id: str) -> Reconstruction:
        """Stop a reconstruction. Raises ServiceError."""
        answer = self._ask("POST", f"/v1/reconstructions/{job_id}/cancel")
        return Reconstruction.model_validate(answer.json())

    def delete(self, job_id: str) -> None:
        """Delete an ended reconstruction and its results. Raises ServiceError."""
        self._ask("DELETE", f"/v1/reconstructions/{job_id}")

    def _fetch(self, path: str, file: BinaryIO) -> str | None:
        """Download to a file, going on where the line broke; the SHA-256, None if it is wrong."""
        digest, tag = hashlib.sha256(), ""
        headers: dict[str, str] = {}
        for attempt in range(_ATTEMPTS):
            try:
                with self._http.stream("GET", path, headers=headers) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _refused(answer)
                    if answer.status_code != 206:  # the whole, from the beginning
                        file.seek(0)
                        file.truncate()
                        digest = hashlib.sha256()
                    tag = answer.headers.get("etag", "")
                    for block in answer.iter_bytes(_BLOCK):
                        digest.update(block)
                        file.write(block)
                found = digest.hexdigest()
                return found if tag == f'"{found}"' else None
            except httpx.HTTPError as error:
                if attempt == _ATTEMPTS - 1:
                    raise _unreachable(error) from error
                if tag:
                    headers = {"Range": f"bytes={file.tell()}-", "If-Range": tag}
                time.sleep(0.5 * 2**attempt)
        raise AssertionError("unreachable")

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        stream: Callable[[], Iterator[bytes]] | None = None,
    ) -> httpx.Response:
        for attempt in range(_ATTEMPTS):
            last = attempt == _ATTEMPTS - 1
            try:
                answer = self._http.request(
                    method,
                    path,
                    params=params,
                    headers=headers,
                    json=body,
                    content=None if stream is None else stream(),
                )
            except httpx.HTTPError as error:
                if last:
                    raise _unreachable(error) from error
                time.sleep(0.5 * 2**attempt)
                continue
            if _transient(answer) and not last:
                time.sleep(min(30.0, float(answer.headers.get("retry-after", 0.5 * 2**attempt))))
                continue
            if answer.is_error:
                raise _refused(answer)
            return answer
        raise AssertionError("unreachable")

    def _stream(self, job_id: str, last: int) -> Iterator[Event]:
        headers = {"Last-Event-ID": str(last)} if last else {}
        path = f"/v1/reconstructions/{job_id}/events"
        with self._http.stream("GET", path, headers=headers) as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields and "id" in fields:
                    data = json.loads(fields["data"])
                    yield Event(int(fields["id"]), fields.get("event", "message"), data)
                    fields = {}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _region(region: NDArray[np.bool_] | Sequence[tuple[float, float]]) -> dict[str, Any]:
    import numpy as np  # lazy: most uses need none

    if isinstance(region, np.ndarray) and region.dtype == np.bool_:
        return {"mask": base64.b64encode(np.packbits(region).tobytes()).decode()}
    return {"polygon": [[float(row), float(column)] for row, column in region]}


def _code(problem: dict[str, Any]) -> str:
    return str(problem.get("type", "")).rpartition("/")[2] or "unknown"


def _transient(answer: httpx.Response) -> bool:
    """Whether the same request may be answered otherwise soon."""
    in_flight = b"/problems/idempotency-in-flight" in answer.content
    return answer.status_code in _TRANSIENT or (answer.status_code == 409 and in_flight)


def _refused(answer: httpx.Response) -> ServiceError:
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        text = f"the server answered {answer.status_code}"
        return ServiceError("unknown", text)
    return ServiceError(_code(problem), detail, problem)


def _unreachable(error: httpx.HTTPError) -> ServiceError:
    return ServiceError("unreachable", f"the server does not answer ({error}); is it running?")
