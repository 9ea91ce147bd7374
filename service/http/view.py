"""/ and /view: the viewer's bundle, where it was built, and plain HTML that needs no bundle."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Query
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

import service
from service.http.authentication import Reader, owner_of
from service.http.context import AT_STORAGE, Context, InContext
from service.http.job_answers import find_job
from service.http.results import PictureQuery, finished_picture, results_of
from service.http.scans import Id
from service.http.schemas import ResultOut
from service.jobs.job import Job, JobState
from service.problems import PROBLEMS, ProblemError
from service.report import AppliedFactor, Report
from service.volumes import MAPS, PosteriorMap, colour_stops, not_computed, window_of

_VIEWER = FilePath(service.__file__).parent / "viewer"
BUNDLE = _VIEWER / "dist"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""Pictures arrive as blobs, because a key travels in a header; a figure holds its own as data."""
_PAGE = {"Content-Security-Policy": POLICY}
_FOREVER = "public, max-age=31536000, immutable"
_NOTICE = "For research use, not for diagnosis"

router = APIRouter(prefix="/view", include_in_schema=False)


class _Assets(StaticFiles):
    """Files whose names carry their digest."""

    async def check_config(self) -> None:
        """There may be no bundle yet; then no file of it is found."""

    async def get_response(self, path: str, scope: object) -> Response:
        answer = await super().get_response(path, scope)  # type: ignore[arg-type]
        answer.headers["Cache-Control"] = _FOREVER
        return answer


@router.get("/plain.css")
async def stylesheet() -> Response:
    """Of the plain pages."""
    return FileResponse(_VIEWER / "plain.css", media_type="text/css")


@router.get("/plain")
def plain_list(context: InContext, key: Reader) -> Response:
    """The newest reconstructions, without scripts."""
    rows = "".join(_row(job) for job in context.jobs.page(owner_of(key), limit=100))
    table = (
        "<table><thead><tr><th>Reconstruction<th>State<th>Progress<th>Preset<th>Submitted"
        f"</thead><tbody>{rows}</tbody></table>"
    )
    return _html("Reconstructions", table if rows else "<p>There are none yet.</p>")


@router.get("/plain/{job_id}", dependencies=[AT_STORAGE])
def plain_reconstruction(
    context: InContext, key: Reader, job_id: Id, query: Annotated[PictureQuery, Query()]
) -> Response:
    """One reconstruction: a picture drawn by the server, and what the report says of its slice."""
    job = find_job(context, key, job_id)
    body = f"<p>State: <strong>{job.state.value}</strong></p>"
    if job.error:
        body += f"<p role=alert>{escape(job.error['title'])}: {escape(job.error['detail'])}</p>"
    if job.state is JobState.SUCCEEDED and job.results is None:
        body += "<p>The results were removed. A retry of the job makes them again.</p>"
    elif job.state is JobState.SUCCEEDED and job.summary:
        body += _picture(context, job, query)
    return _html(f"Reconstruction {_name(job)}", body)


@router.get("")
@router.get("/{path:path}")
async def viewer(path: str = "") -> Response:  # noqa: ARG001 - the page reads it itself
    """The one page of the viewer, whatever part of it the address names."""
    page = BUNDLE / "index.html"
    if page.is_file():
        return FileResponse(page, media_type="text/html", headers=_PAGE)
    return _html(
        "The viewer has not been built",
        "<p>This installation has no viewer bundle. From a source checkout build it with "
        "<code>make viewer</code> (it needs npm, or fetches Node.js from PyPI), then reload.</p>"
        "<p>The API works without it (<a href='/docs'>its description</a>), and so do "
        "<a href='/view/plain'>the plain pages</a> with pictures drawn by the server.</p>",
        503,
    )


def add_view(app: FastAPI) -> None:
    """Serve the viewer; nothing is loaded from elsewhere."""
    assets = _Assets(directory=BUNDLE / "assets", check_dir=False)
    app.mount("/view/assets", assets, name="view-assets")
    app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/view")

    @app.get("/problems/{kind}", include_in_schema=False)
    async def problem(kind: Annotated[str, Path(pattern="^[a-z0-9-]{1,64}$")]) -> Response:
        """What the `type` of a problem leads to."""
        if kind not in PROBLEMS:
            raise ProblemError("not-found", "there is no such problem")
        status, title, advice = PROBLEMS[kind]
        code = re.sub("`([^`]+)`", r"<code>\1</code>", escape(advice))
        return _html(title, f"<p>{code}</p><p>HTTP status {status}.</p>")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        headers = {"Cache-Control": "public, max-age=86400"}
        return FileResponse(_VIEWER / "icon.svg", media_type="image/svg+xml", headers=headers)


def _name(job: Job) -> str:
    return str(job.request.get("tags", {}).get("label") or job.id)


def _row(job: Job) -> str:
    done = job.state is JobState.SUCCEEDED
    progress = 1.0 if done else 0.0 if job.progress is None else job.progress.fraction
    submitted = f"{_time(job.created_at)} UTC"
    label = escape(_name(job))
    return (
        f"<tr><td><a href='/view/plain/{job.id}'>{label}</a><td>{job.state.value}"
        f"<td>{progress:.0%}<td>{escape(job.parameters.preset or 'standard')}<td>{submitted}"
    )


def _picture(context: Context, job: Job, query: PictureQuery) -> str:
    report = job.summary
    assert report is not None
    slices = {entry.slice: entry for entry in report.slices}
    shown = query.slice if query.slice in slices else sorted(slices)[len(slices) // 2]
    entry = slices[shown]
    reasons = {name: not_computed(name, report) for name in MAPS}
    kinds = "".join(
        _option(name, kind.label, query.product, reasons[name]) for name, kind in MAPS.items()
    )
    indices = "".join(_option(str(index), str(index), str(shown)) for index in sorted(slices))
    samples = "".join(_option(str(i), str(i), str(query.sample)) for i in range(report.samples))
    warnings = "".join(f"<li>{escape(text)}" for text in entry.warnings)
    return (
        f"<form method=get><label>Picture <select name=product>{kinds}</select></label> "
        f"<label>Slice <select name=slice>{indices}</select></label> "
        f"<label>Sample <select name=sample>{samples}</select></label> <button>Show</button></form>"
        f"{_figure(context, job, report, query.model_copy(update={'slice': shown}))}"
        f"{_calibration(report.calibration)}"
        f"<p>χ² {entry.chi2:.2f}, {'converged' if entry.converged else 'not converged'}</p>"
        f"<ul>{warnings}</ul>"
        f"{_products(job)}"
    )


def _figure(context: Context, job: Job, report: Report, query: PictureQuery) -> str:
    """The picture with its colour bar, or why there is none."""
    reason = not_computed(query.product, report)
    if reason is not None:
        return f"<p role=alert>{escape(reason)}</p>"
    picture = MAPS[query.product]
    low, high = query.ends or window_of(query.product, finished_picture(context, job, query))
    source = (
        f"/v1/reconstructions/{job.id}/preview.png?slice={query.slice}&amp;product={query.product}"
        f"&amp;sample={query.sample}&amp;colours=own&amp;window={low:.9g},{high:.9g}"
    )
    return (
        f"<figure><img src='{source}' alt='{escape(picture.meaning)}, slice {query.slice}'>"
        f"{_colour_bar(picture, (low, high))}"
        f"<figcaption>{escape(picture.meaning)}</figcaption></figure>"
    )


def _colour_bar(picture: PosteriorMap, window: tuple[float, float]) -> str:
    """Which colour is which value: presentation attributes, for the policy allows no styles."""
    colours = colour_stops(picture.colours)
    stops = "".join(
        f"<stop offset='{at / (len(colours) - 1):.4f}' stop-color='rgb{colour}'/>"
        for at, colour in enumerate(colours)
    )
    low, high = window
    values = "".join(f"<span>{value:.3g}</span>" for value in (low, (low + high) / 2, high))
    unit = escape(f"{picture.label}{f' ({picture.unit})' if picture.unit else ''}")
    return (
        "<div class=bar><svg viewBox='0 0 100 4' preserveAspectRatio=none aria-hidden=true>"
        f"<linearGradient id=colours>{stops}</linearGradient>"
        "<rect width=100 height=4 fill='url(#colours)'/></svg>"
        f"<div class=values>{values}</div><p>{unit}</p></div>"
    )


def _products(job: Job) -> str:
    """Where each file can be had, and what is in it."""
    here = f"/v1/reconstructions/{job.id}/results"
    files = [ResultOut.of(file, here) for file in results_of(job)]
    items = "".join(f"<li><a href='{f.href}'>{f.name}</a>: {escape(f.contents)}" for f in files)
    return f"<ul>{items}</ul>"


def _calibration(said: AppliedFactor | None) -> str:
    """What was done to the intervals, where something was."""
    if said is None:
        return ""
    return (
        f"<p>Intervals and standard deviation are {said.factor:.3g} times what the draws say: a "
        f"conformal factor from {said.units} {escape(said.unit)}s of "
        f"{escape(said.data)}, {escape(said.date)}.</p>"
    )


def _option(value: str, label: str, chosen: str, reason: str | None = None) -> str:
    selected = " selected" if value == chosen else ""
    disabled = "" if reason is None else f" disabled title='{escape(reason)}'"
    return f"<option value='{value}'{selected}{disabled}>{escape(label)}</option>"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _html(title: str, body: str, status: int = 200) -> Response:
    page = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{escape(title)} · mri-posterior</title>"
        "<link rel=icon href=/favicon.ico type=image/svg+xml>"
        "<link rel=stylesheet href=/view/plain.css></head><body>"
        f"<p class=notice>{_NOTICE}</p><nav><a href=/view>Viewer</a> "
        "<a href=/view/plain>Plain pages</a> <a href=/docs>API</a></nav>"
        f"<main><h1>{escape(title)}</h1>{body}</main></body></html>"
    )
    return HTMLResponse(page, status, headers=_PAGE)
