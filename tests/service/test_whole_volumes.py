"""Scans with two phase encodings sampled as one volume, by a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recon.io.files import write_scan
from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask
from service.client import Client, ServiceError
from tests.service.browsing import Tab, drop, needs_browser, needs_bundle, show, voxel_at
from tests.service.ledgers import ledger
from tests.service.live import (
    QUICK,
    Server,
    cli,
    ended,
    environment,
    events,
    problem,
    serving,
    submitted,
    wait_for,
)

SIDE, SLICES = 32, 4
HEADER = """<ismrmrdHeader><encoding><reconSpace>
<matrixSize><x>32</x><y>32</y><z>1</z></matrixSize>
<fieldOfView_mm><x>64</x><y>64</y><z>{thickness}</z></fieldOfView_mm>
</reconSpace></encoding></ismrmrdHeader>"""


def volume_scan(path: Path, thickness: float = 2.0) -> Path:
    full, _ = simulate(SLICES, 4, SIDE, SIDE)
    mask = undersampling_mask((SIDE, SIDE), "poisson", 2, 0.4, 0)
    scan = replace(undersample(full, mask), header=HEADER.format(thickness=thickness))
    write_scan(path, scan)
    return path


@pytest.fixture(scope="module")
def scan3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volume_scan(tmp_path_factory.mktemp("volume") / "scan3d.h5")


@pytest.fixture(scope="module")
def volume(server: Server, scan3d: Path) -> dict[str, Any]:
    with server.client() as client:
        return ended(client, submitted(client, scan3d, volume=True, samples=3))


def stack_of(client: httpx.Client, job: dict[str, Any], name: str, folder: Path) -> np.ndarray:
    path = folder / name
    path.write_bytes(client.get(f"{job['links']['results']}/{name}").content)
    return np.load(path, allow_pickle=False)


def test_a_volume_is_one_job_and_what_the_command_line_makes(
    client: httpx.Client, volume: dict[str, Any], scan3d: Path, server: Server, tmp_path: Path
) -> None:
    assert volume["state"] == "succeeded", volume["error"]
    assert volume["params"]["volume"] is True
    assert (volume["summary"]["volume"], volume["summary"]["joint"]) == (True, True)
    assert [entry["slice"] for entry in volume["summary"]["slices"]] == list(range(SLICES))
    steps = [(e["step"], e["what"]) for e in ledger(server, volume) if e["step"] != "prepare"]
    assert steps == [
        ("volume", "started"),
        *[("volume", "kept")] * 3,
        ("volume", "finished"),
        ("assemble", "started"),
        ("assemble", "finished"),
    ]
    out = tmp_path / "result.h5"
    own = environment(Path(server.environment["MRI_POSTERIOR_MODELS"]))
    told = cli(
        own, "reconstruct", scan3d, "-o", out, "--volume", "--preset", "fast", "--samples", 3,
        "--model", "tiny", "--no-self-check", "--quiet",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    from recon.arrays import open_result

    samples = stack_of(client, volume, "samples.npy", tmp_path)
    assert samples.shape == (3, SLICES, SIDE, SIDE)
    np.testing.assert_array_equal(samples, open_result(out).samples)
    left = server.data / "reconstructions" / volume["id"]
    assert not (left / "slices").exists()


def test_its_events_tell_one_progress_and_every_slice(client: httpx.Client, scan3d: Path) -> None:
    job = submitted(client, scan3d, volume=True, samples=2, seed=5)
    found = events(client, job)
    told = [e["data"] for e in found if e["event"] == "progress"]
    sampling = [one for one in told if one["phase"] == "sampling"]
    assert sampling
    assert all((one["position"], one["slices"]) == (0, 1) for one in sampling)
    fractions = [one["fraction"] for one in sampling]
    assert fractions == sorted(fractions)
    slices = [e["data"]["slice"] for e in found if e["event"] == "slice"]
    assert slices == list(range(SLICES))
    assert found[-1]["event"] == "end"


def test_a_region_through_its_slices(
    client: httpx.Client, server: Server, volume: dict[str, Any], tmp_path: Path
) -> None:
    mask = np.zeros((SLICES, SIDE, SIDE), np.bool_)
    mask[1:3, 8:14, 9:15] = True
    with Client(server.url) as asking:
        answer = asking.region(volume["id"], mask, slice=0)
    samples = np.abs(stack_of(client, volume, "samples.npy", tmp_path))
    expected = samples[:, mask].mean()
    assert (answer.slices, answer.joint, answer.pixels) == (4, True, 72)
    assert answer.region.mean == pytest.approx(expected, rel=1e-4)
    corners = [(1, 16), (1, 28), (5, 28), (5, 16)]  # of slices 1 and 2, columns 8 to 13, in mm
    with Client(server.url) as asking:
        across = asking.region(volume["id"], corners, plane="rows", slice=8, through=13, unit="mm")
    expected = samples[:, 1:3, 8:14, 8:14].mean()
    assert (across.slices, across.joint, across.pixels) == (2, True, 72)
    assert across.region.mean == pytest.approx(expected, rel=1e-4)


def test_client_and_command_ask_for_a_volume(server: Server, scan3d: Path, tmp_path: Path) -> None:
    with Client(server.url) as asking:
        posterior = asking.reconstruct(scan3d, **QUICK, samples=2, volume=True)
    assert posterior.attributes["volume"] == 1
    out = tmp_path / "result.h5"
    own = environment(Path(server.environment["MRI_POSTERIOR_MODELS"]))
    told = cli(
        own, "submit", scan3d, "--server", server.url, "-o", out, "--volume", "--model", "tiny",
        "--preset", "fast", "--samples", 2, "--quiet",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert out.is_file()


def test_scans_that_are_no_volume_are_refused_at_once(
    client: httpx.Client, server: Server, scan: Path, scan3d: Path
) -> None:
    with Client(server.url) as asking:
        lines, cubes = asking.upload(scan), asking.upload(scan3d)
        with pytest.raises(ServiceError) as refused:
            asking.submit(scan, volume=True)
    assert refused.value.code == "no-volume"
    assert "one phase encoding" in refused.value.message
    for name, expected in ((lines, False), (cubes, True)):
        assert client.get(f"/v1/scans/{name}").json()["two_phase_encodings"] is expected
    alone = client.post(
        "/v1/reconstructions", json={"scan_id": cubes, "volume": True, "slices": "2"}
    )
    assert "one slice" in problem(alone, 422, "no-volume")["detail"]


def test_what_shows_only_in_the_file_fails_the_job_before_the_work(
    client: httpx.Client, server: Server, tmp_path: Path
) -> None:
    thick = volume_scan(tmp_path / "thick.h5", thickness=6.0)
    done = ended(client, submitted(client, thick, volume=True))
    assert (done["state"], done["error"]["type"]) == ("failed", "/problems/no-volume")
    assert "2.00 x 2.00 x 6.00 mm" in done["error"]["detail"]
    assert {e["step"] for e in ledger(server, done)} == {"prepare"}


def test_limits_say_what_a_volume_takes(client: httpx.Client, scan3d: Path, server: Server) -> None:
    limits = client.get("/v1/limits").json()
    size = {"slices": SLICES, "rows": SIDE, "columns": SIDE, "coils": 4, "preset": "fast"}
    found = client.get("/v1/limits/volume", params=size).json()
    assert found["allowed"] is True
    assert found["memory_bytes"] <= limits["max_volume_bytes"]
    assert found["kept_bytes"] == 8 * 4 * 2 * SLICES * SIDE * SIDE
    own = environment(Path(server.environment["MRI_POSTERIOR_MODELS"]))
    told = cli(
        own, "reconstruct", scan3d, "-o", "x.h5", "--volume", "--preset", "fast", "--dry-run"
    )
    said = " ".join(told.stderr.split())
    assert f"{found['evaluations']} network evaluations of {SLICES} planes" in said
    large = client.get("/v1/limits/volume", params=size | {"slices": 512, "rows": 512,
                                                           "columns": 512}).json()  # fmt: skip
    assert large["allowed"] is False
    problem(client.get("/v1/limits/volume", params=size | {"slices": 1}), 422, "invalid-parameter")


def test_a_volume_beyond_the_limit_is_refused(make: Any, scan3d: Path) -> None:
    from tests.service.in_process import OFFERS, ask

    context = make(max_volume_bytes=1 << 20, disk_floor_bytes=0)
    context.workers.enter("one", "cpu", 1, OFFERS)
    sent = {"content": scan3d.read_bytes(), "headers": {"Content-Type": "application/x-hdf5"}}
    answer = ask(context, "POST", "/v1/reconstructions?volume=true", **sent)
    told = problem(answer, 422, "volume-too-large")
    assert told["needed_bytes"] > told["allowed_bytes"] == 1 << 20
    assert ask(context, "POST", "/v1/reconstructions", **sent).status_code == 202


@pytest.mark.slow
def test_a_killed_worker_loses_at_most_the_chain_it_was_at(
    tmp_path: Path, models: Path, scan3d: Path
) -> None:
    long = {"volume": True, "samples": 8, "seed": 3}
    settings = {"worker_lost_seconds": 1.5, "heartbeat_seconds": 0.3, "max_attempts": 2}
    with serving(tmp_path / "service", models, **settings) as running, running.client() as client:
        undisturbed = ended(client, submitted(client, scan3d, **long))
        job = submitted(client, scan3d, **long)
        for count in (1, 3, 5):  # more often than a step without progress may be
            wait_for(lambda: _kept(running, job) >= count)  # noqa: B023
            assert _kept(running, job) < long["samples"]
            running.kill("worker-0")
        done = ended(client, job)
        assert (done["state"], done["attempt"]) == ("succeeded", 1)
        assert _kept(running, job) == long["samples"]
        both = [
            client.get(each["links"]["results"] + "/samples.npy").content
            for each in (undisturbed, done)
        ]
    assert both[0] == both[1]


def _kept(server: Server, job: dict[str, Any]) -> int:
    return [e["what"] for e in ledger(server, job)].count("kept")


@needs_browser
@needs_bundle
def test_the_viewer_asks_for_a_volume_and_for_a_region_through_it(
    tab: Tab, client: httpx.Client, scan3d: Path
) -> None:
    """The last one: while the browser lives, its thread has an event loop."""
    page = tab.page
    page.goto("/view")
    page.get_by_label("Model", exact=True).select_option("tiny")
    page.get_by_role("radio", name="fast").check()
    page.get_by_label("Samples").fill("2")
    page.get_by_label("As one volume").check()
    page.get_by_label("Label").fill("Whole volume")
    drop(page, "scan3d.h5", scan3d.read_bytes())
    row = page.locator("tr", has_text="Whole volume")
    row.get_by_text("succeeded").wait_for(timeout=60_000)
    row.get_by_role("link", name="Whole volume").click()
    show(page, picture="mean")
    here = f"/v1/reconstructions/{page.url.rsplit('/', 1)[1].partition('?')[0]}"
    assert client.get(here).json()["params"]["volume"] is True
    page.keyboard.press("r")
    corners = [voxel_at(page, row, column, SIDE, SIDE) for row, column in ((8, 9), (16, 20))]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=3)
    page.mouse.up()
    page.locator(".numbers").wait_for()
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.get_by_label("through to slice").fill("3")
    question = asked.value.post_data_json
    assert (question["slice"], question["through"]) == (2, 3)
    said = client.post(f"{here}/roi", json=question).json()
    page.get_by_text(f"{said['pixels']} voxels of 2 slices in A").wait_for()
    assert said["slices"] == 2
    page.get_by_label("through to slice").blur()
    page.keyboard.press("n")
    page.locator(".stage.plane").nth(2).wait_for()
    assert page.locator(".stage.plane").count() == 3
