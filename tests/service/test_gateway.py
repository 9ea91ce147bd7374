"""Scanner sessions on a real service: processes, sockets, jobs that outlive them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
from ismrmrd.serialization import ConfigFile, ConfigText

from recon.io.files import read_result, read_scan
from tests.mrd_files import header, lines
from tests.service.live import Server, ended, serving, wait_for
from tests.service.mrd_sessions import (
    ACQUISITIONS,
    BAD,
    FAST,
    FULL,
    GOOD,
    HEADER,
    SCAN,
    XML,
    header_message,
    sent,
    talk,
)

TRIGGER = '{"parameters": {"mode": "trigger", "quality": "fast", "numsamples": 2}}'


def session_header(number: str, frame: str = "1.2.3", parameters: str = "") -> bytes:
    """Of a measurement of this number in this frame of reference."""
    extra = (
        f"<measurementInformation><measurementID>{number}</measurementID><patientPosition>HFS"
        f"</patientPosition><protocolName>t1</protocolName><frameOfReferenceUID>{frame}"
        "</frameOfReferenceUID></measurementInformation><acquisitionSystemInformation>"
        "<systemVendor>V</systemVendor><deviceID>D1</deviceID></acquisitionSystemInformation>"
    )
    xml = header((32, 32, 1), extra=extra)
    if parameters:
        parameters = f"<userParameters>{parameters}</userParameters>"
        xml = xml.replace("</ismrmrdHeader>", f"{parameters}</ismrmrdHeader>")
    return header_message(xml)


def triggered(number: str, frame: str = "1.2.3") -> bytes:
    return sent(FAST, session_header(number, frame), TRIGGER, *ACQUISITIONS)


def retrieval(number: str, frame: str = "1.2.3") -> bytes:
    return sent(ConfigFile("retrieve"), session_header(number, frame))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("gateway"),
        models,
        gateway_port=0,
        gateway_configs='{"openrecon": "fast"}',
        default_model="tiny",
    ) as running:
        yield running


@pytest.fixture
def port(server: Server) -> int:
    return next(x["port"] for x in server.log if x.get("event") == "listening for scanners")


def newest(server: Server) -> dict[str, Any]:
    with server.client() as client:
        return client.get("/v1/reconstructions", params={"limit": 1}).json()["items"][0]


def job_named(server: Server, text: str) -> dict[str, Any]:
    """The job that a text speaks of, ended."""
    job_id = text.partition("job ")[2][:26]
    with server.client() as client:
        return ended(client, client.get(f"/v1/reconstructions/{job_id}").json())


def assert_images_of(server: Server, images: list[ismrmrd.Image], job: dict[str, Any]) -> None:
    """Mean and standard deviation of the job's result, within half a step of their 12 bits."""
    result = server.data / "reconstructions" / job["id"] / "result.h5"
    [posterior] = read_result(result)[0]
    assert [image.image_series_index for image in images] == [1, 2]
    for image, values in zip(
        images, (np.abs(posterior.mean), posterior.magnitude_std), strict=True
    ):
        slope = float(image.meta["RescaleSlope"])
        assert np.abs(image.data[0, 0].T * slope - values).max() <= slope / 2 * 1.001
        assert image.meta["ReconJobId"] == job["id"]


def test_an_inline_session_returns_the_images_of_a_durable_job(server: Server, port: int) -> None:
    answer = talk(port, GOOD)
    assert not any(text.startswith("ERROR") for text in answer.texts), answer.texts
    job = newest(server)
    assert (job["priority"], job["params"]["seed"], job["state"]) == ("scanner", 5, "succeeded")
    assert_images_of(server, answer.images, job)
    stored = read_scan(server.data / "scans" / job["scan"]["sha256"][:2] / _file(job))
    np.testing.assert_array_equal(stored.kspace[0], SCAN.kspace[0])


def _file(job: dict[str, Any]) -> str:
    return f"{job['scan']['sha256']}.h5"


def test_what_was_triggered_is_retrieved_by_its_number(server: Server, port: int) -> None:
    answer = talk(port, triggered("M1"))
    [text] = answer.texts
    assert "queued" in text
    [preview] = answer.images
    assert preview.image_series_index == 3
    assert "PREVIEW" in preview.meta["ImageComments"]
    assert np.argmax(preview.data[0, 0].mean(axis=1)) in range(8, 24)
    assert talk(port, retrieval("M1")).texts[0].startswith(("INFO", "WARNING"))
    job = job_named(server, text)
    found = talk(port, retrieval("M1", frame="9.9"))
    assert_images_of(server, found.images, job)


@pytest.mark.slow
def test_without_the_number_place_and_time_find_it_but_never_another_patient(
    server: Server, port: int
) -> None:
    job = job_named(server, talk(port, triggered("M2", frame="1.2.777")).texts[0])
    found = talk(port, retrieval("M3", frame="1.2.777"))
    assert_images_of(server, found.images, job)
    [text] = talk(port, retrieval("M3", frame="1.2.778")).texts
    assert text.startswith("ERROR")
    assert "not-found" in text
    silent = talk(port, sent(ConfigFile("retrieve"), header_message(XML)))
    assert "not-found" in silent.texts[0]


@pytest.mark.slow
def test_a_session_may_name_the_number_that_it_wants(server: Server, port: int) -> None:
    job = job_named(server, talk(port, triggered("M4", frame="1.2.4")).texts[0])
    wanted = '{"parameters": {"measurementid": "M4", "mode": "retrieve", "sendstd": false}}'
    answer = talk(port, sent(FAST, session_header("M5", "5.5"), wanted))
    assert [image.meta["ReconJobId"] for image in answer.images] == [job["id"]]


@pytest.mark.slow
def test_header_parameters_count_and_those_of_the_text_win(server: Server, port: int) -> None:
    parameters = (
        "<userParameterLong><name>numsamples</name><value>3</value></userParameterLong>"
        "<userParameterLong><name>seed</name><value>9</value></userParameterLong>"
        "<userParameterString><name>quality</name><value>fast</value></userParameterString>"
        "<userParameterString><name>mode</name><value>trigger</value></userParameterString>"
    )
    head = session_header("M6", parameters=parameters)
    talk(port, sent(ConfigText("openrecon"), head, '{"parameters": {"seed": 4}}', *ACQUISITIONS))
    params = newest(server)["params"]
    assert (params["samples"], params["seed"], params["preset"]) == (3, 4, "fast")


@pytest.mark.slow
def test_interleaved_repetitions_become_a_job_each(server: Server, port: int) -> None:
    other = [line for line in range(32) if line % 2 or 9 <= line < 23]
    more = list(lines(FULL.kspace[0], other, repetition=1))
    answer = talk(port, sent(FAST, session_header("M10"), TRIGGER, *ACQUISITIONS, *more))
    jobs = [job_named(server, text) for text in answer.texts]
    assert [job["params"]["select"] for job in jobs] == ["repetition=0", "repetition=1"]
    assert [job["state"] for job in jobs] == ["succeeded", "succeeded"]
    found = talk(port, retrieval("M10"))
    assert [image.repetition for image in found.images] == [0, 0, 1, 1]


@pytest.mark.slow
def test_a_session_that_breaks_off_keeps_its_raw_data(server: Server, port: int) -> None:
    content = sent(FAST, session_header("M7"), TRIGGER, *ACQUISITIONS, close=False)
    answer = talk(port, content)
    assert "client-disconnect" in answer.texts[0]
    job = job_named(server, answer.texts[0])
    assert job["state"] == "cancelled"
    assert job["error"]["type"].endswith("client-disconnect")
    scan = read_scan(server.data / "scans" / job["scan"]["sha256"][:2] / _file(job))
    np.testing.assert_array_equal(scan.kspace[0], SCAN.kspace[0])
    with server.client() as client:
        again = client.post(f"/v1/reconstructions/{job['id']}/retry").json()
        done = ended(client, again)
    assert_images_of(server, talk(port, retrieval("M7")).images, done)


@pytest.mark.slow
def test_the_raw_data_outlive_a_gateway_that_is_killed(server: Server, port: int) -> None:
    content = sent(FAST, session_header("M8"), TRIGGER, *ACQUISITIONS, close=False)
    before = newest(server)["id"]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(content)
        incoming = server.data / "incoming"
        wait_for(lambda: any(f.stat().st_size > 4096 for f in incoming.glob("*.session")))
        time.sleep(0.5)
        old = server.pid("gateway")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: server.pid("gateway") != old)
    wait_for(lambda: newest(server)["id"] != before)
    job = newest(server)
    assert job["error"]["type"].endswith("client-disconnect")
    assert list((server.data / "incoming").glob("*.session")) == []


@pytest.mark.slow
def test_the_job_of_a_client_that_leaves_goes_on(server: Server, port: int) -> None:
    before = newest(server)["id"]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent(FAST, session_header("M9"), '{"parameters": {}}', *ACQUISITIONS))
        wait_for(lambda: newest(server)["id"] != before)
    with server.client() as client:
        job = ended(client, newest(server))
    assert_images_of(server, talk(port, retrieval("M9")).images, job)


@pytest.mark.slow
def test_config_texts_and_waveforms_and_images_do_no_harm(port: int) -> None:
    image = ismrmrd.Image.from_array(np.zeros((1, 1, 3, 4), np.float32))
    waveform = ismrmrd.Waveform.from_array(np.zeros((2, 5), np.uint32))
    content = sent(
        ConfigText("openrecon\0"),
        header_message(XML + "\0"),
        '{"parameters": {"numsamples": 2, "sendstd": false, "other": 1}}',
        image,
        *ACQUISITIONS[:5],
        waveform,
        "a remark",
        *ACQUISITIONS[5:],
    )
    answer = talk(port, content)
    assert [image.image_series_index for image in answer.images] == [1]


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_session_is_answered_and_closed(name: str, port: int) -> None:
    content, reason = BAD[name]
    answer = talk(port, content)
    [text] = answer.texts
    assert text.startswith("ERROR   ")
    assert reason in text
    assert answer.images == []


@pytest.mark.slow
def test_the_server_goes_on_after_clients_that_vanish(port: int) -> None:
    for cut in (1, 1500, len(GOOD) // 2, len(GOOD)):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(GOOD[:cut])
            # A reset, not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert len(talk(port, GOOD).images) == 2
    assert talk(port, sent(FAST, HEADER)).texts
