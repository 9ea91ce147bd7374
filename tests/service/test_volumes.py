"""Pictures as volumes, against the result file; and the pages that need no bundle."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from recon.io.files import read_result
from recon.phantom import simulate
from recon.planes import ATTRIBUTE, axial
from recon.scan import Geometry
from service.http import view
from service.pictures import png
from service.report import Edges, ImageReport
from service.volumes import MAPS, colour_stops, nifti
from tests.service.live import Server, ended, submitted


@pytest.fixture(scope="module")
def done(server: Server, scan: Path) -> dict[str, Any]:
    with server.client() as client:
        return ended(client, submitted(client, scan, samples=4))


@pytest.fixture(scope="module")
def maps(server: Server, done: dict[str, Any], tmp_path_factory: Any) -> dict[str, np.ndarray]:
    """What every picture must hold, from the result file."""
    path = tmp_path_factory.mktemp("result") / "result.h5"
    with server.client() as client:
        path.write_bytes(client.get(f"{done['links']['results']}/result.h5").content)
    slices, _ = read_result(path)

    def inside(values: list[np.ndarray]) -> list[np.ndarray]:
        masks = [p.object_mask & np.isfinite(v) for p, v in zip(slices, values, strict=True)]
        return [np.where(mask, v, np.nan) for mask, v in zip(masks, values, strict=True)]

    def clear(p: Any) -> np.ndarray:
        return abs(p.mean) > 0.08 * np.percentile(abs(p.mean), 99)

    found = {
        "mean": [abs(p.mean) for p in slices],
        "sample": [abs(p.samples[2]) for p in slices],
        "coarse": [abs(p.coarse) for p in slices],
        "std": [p.magnitude_std for p in slices],
        "relative": inside(
            [
                np.where(clear(p), 100 * p.magnitude_std / np.maximum(abs(p.mean), 1e-30), np.nan)
                for p in slices
            ]
        ),
        "width": [p.quantiles[3] - p.quantiles[0] for p in slices],
        "mc-error": [p.mean_error for p in slices],
        "effective-samples": inside([p.effective_samples for p in slices]),
        "phase": inside([np.angle(p.mean) for p in slices]),
        "object": [np.where(p.object_mask, 1, np.nan) for p in slices],
    }
    return {name: np.stack(images) for name, images in found.items()}


COMPUTED = [name for name in MAPS if name != "rhat"]
"""By the preset `fast`, whose chains are too short for R-hat."""


@pytest.mark.parametrize("name", COMPUTED)
def test_a_volume_is_real_and_holds_the_results_values(
    client: httpx.Client, done: dict[str, Any], maps: dict[str, np.ndarray], name: str
) -> None:
    address = f"{done['links']['volumes']}/{name}.nii"
    answer = client.get(address, params={"sample": 2})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-nifti"
    image = nibabel.Nifti1Image.from_bytes(answer.content)
    assert image.get_data_dtype() == np.float32
    values = np.asarray(image.dataobj).transpose(2, 1, 0)
    assert np.allclose(values, maps[name], rtol=1e-5, atol=1e-7, equal_nan=True)
    assert image.shape == (32, 32, 2)
    assert image.header["cal_min"] < image.header["cal_max"]
    again = client.get(
        address, params={"sample": 2}, headers={"If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 304


def test_the_list_names_every_picture_with_its_colours(
    client: httpx.Client, done: dict[str, Any]
) -> None:
    listed = client.get(done["links"]["volumes"]).json()["items"]
    assert [entry["name"] for entry in listed] == list(MAPS)
    for entry in listed:
        assert len(entry["colours"]) == 33
        if entry["missing"] is None:
            assert client.get(entry["href"]).status_code == 200
    assert [entry["name"] for entry in listed if entry["missing"] is not None] == ["rhat"]


def test_a_map_that_was_not_computed_is_not_drawn(
    client: httpx.Client, done: dict[str, Any]
) -> None:
    preview = f"{done['links']['preview']}?product=rhat"
    for address in (f"{done['links']['volumes']}/rhat.nii", preview):
        answer = client.get(address)
        assert answer.status_code == 404
        assert "standard or thorough" in answer.json()["detail"]
    page = client.get(f"/view/plain/{done['id']}?product=rhat").text
    assert "<img" not in page
    assert "standard or thorough" in page
    assert "<option value='rhat' selected disabled" in page


def test_volumes_that_are_not_there(client: httpx.Client, done: dict[str, Any], scan: Path) -> None:
    here = done["links"]["volumes"]
    for path in ("nothing.nii", "sample.nii?sample=9"):
        answer = client.get(f"{here}/{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert client.get(f"{here}/..%2Fmean.nii").status_code in (404, 422)


def test_one_slice_is_a_volume_with_its_thickness() -> None:
    stack = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    image = nibabel.Nifti1Image.from_bytes(nifti(stack, (2.0, 1.5, 4.0), (0, 5), "test"))
    assert image.shape == (3, 2, 1)
    assert image.header.get_zooms() == (1.5, 2.0, 4.0)
    # The first row is the upper one: the second axis points down.
    assert nibabel.aff2axcodes(image.affine) == ("R", "P", "S")
    assert np.allclose(image.affine @ [1, 0.5, 0, 1], [0, 0, 0, 1])


def test_pictures_of_every_kind_in_grey_and_colours(
    client: httpx.Client, done: dict[str, Any], maps: dict[str, np.ndarray]
) -> None:
    for name in COMPUTED:
        answer = client.get(
            done["links"]["preview"],
            params={"slice": 0, "product": name, "sample": 2, "colours": "own"},
        )
        low, high = map(float, answer.headers["window"].split(","))
        known = np.isfinite(maps[name][0])
        level = np.clip((np.where(known, maps[name][0], low) - low) / (high - low), 0, 1) * 32
        stops = np.array(colour_stops(MAPS[name].colours), float)
        expected = [np.interp(level, np.arange(33), channel) for channel in stops.T]
        found = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"), float)
        assert np.abs(found[..., :3] - np.stack(expected, axis=-1))[known].max() <= 9, name
        assert np.array_equal(found[..., 3], np.where(known, 255, 0)), name


def test_an_overlay_is_transparent_where_it_has_nothing_to_say() -> None:
    image = np.array([[0.0, 1.0]])
    drawn = Image.open(io.BytesIO(png(image, (0, 1), colour_stops("magma"), see_through=True)))
    assert np.asarray(drawn.convert("RGBA"))[0, :, 3].tolist() == [0, 255]


def test_what_is_not_known_has_no_colour() -> None:
    image = np.array([[np.nan, 0.0, 1.0, np.inf]])
    for colours in (None, colour_stops("magma")):
        drawn = Image.open(io.BytesIO(png(image, (0, 1), colours)))
        assert np.asarray(drawn.convert("RGBA"))[0, :, 3].tolist() == [0, 255, 255, 0]


def test_sides_of_the_patient_are_named() -> None:
    (plane,) = axial(1, (4, 4), (1.0, 1.0, 1.0)).planes
    assert Edges.of(plane).model_dump() == {"top": "A", "bottom": "P", "left": "R", "right": "L"}


def test_sides_of_the_stack_are_named() -> None:
    scan, _ = simulate(slices=2, coils=2, rows=16, columns=16)
    stack = axial(2, (16, 16), (2.0, 2.0, 5.0))
    placed = replace(scan, attributes={**scan.attributes, ATTRIBUTE: stack.to_text()})
    assert ImageReport.of(placed, (16, 16)).slice_sides == ("F", "H")
    assert ImageReport.of(scan, (16, 16)).slice_sides is None


def test_voxels_are_as_the_header_says_else_as_the_sender_says() -> None:
    scan, _ = simulate(slices=2, coils=2, rows=16, columns=16)
    nothing = replace(scan, geometry=Geometry(None, None))
    assert ImageReport.of(nothing, (16, 16)).pixel_mm is None
    given = ImageReport.of(nothing, (16, 16), (1.5, 2.0, 4.0))
    assert (given.pixel_mm, given.slice_mm) == ((1.5, 2.0), 4.0)
    assert ImageReport.of(scan, (16, 16), (1.5, 2.0, 4.0)).pixel_mm != (1.5, 2.0)


def test_plain_pages_need_no_bundle_and_no_script(
    client: httpx.Client, done: dict[str, Any]
) -> None:
    listed = client.get("/view/plain")
    assert f"/view/plain/{done['id']}" in listed.text
    assert "<script" not in listed.text
    page = client.get(f"/view/plain/{done['id']}", params={"product": "std", "slice": 1})
    assert f"/v1/reconstructions/{done['id']}/preview.png?slice=1&amp;product=std" in page.text
    assert "For research use, not for diagnosis" in page.text


def test_the_policy_of_the_pages_is_strict(client: httpx.Client) -> None:
    for path in ("/view", "/view/plain"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


def test_without_a_bundle_the_page_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(view, "BUNDLE", tmp_path)
    app = FastAPI()
    view.add_view(app)

    async def asked(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    answer = asyncio.run(asked("/view/reconstructions/some"))
    assert answer.status_code == 503
    assert "make viewer" in answer.text
    assert asyncio.run(asked("/view/assets/index.js")).status_code == 404
