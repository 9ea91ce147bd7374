"""A session in the process itself, as `mri-posterior stream` has it."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd.serialization import ConfigFile, ProtocolDeserializer

from recon.errors import ScanError
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.scan import Scan
from recon.settings import Settings
from service.gateway_configs import Mode, configs_of
from service.scanner.mrd_stream import FileSource
from service.scanner.parameters import Parameters
from service.scanner.pipe import Engine, Session, noise_of
from tests.mrd_files import noise, readout
from tests.service.mrd_sessions import (
    ACQUISITIONS,
    FAST,
    GOOD,
    HEADER,
    SCAN,
    SIZE,
    sent,
    understood,
)

PRIOR = GaussianPrior(torch.zeros(SIZE, SIZE, dtype=torch.complex64), torch.full((SIZE, SIZE), 0.3))
ENGINE = Engine(
    prior=PRIOR,
    device=torch.device("cpu"),
    describe=lambda scan, settings: {"model_id": "gaussian", "seed": settings.seed},
    configs=configs_of({"openrecon": "fast"}),
    base=Settings(self_check=False),
)


def answered(session: Session, content: bytes) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in session.answer(FileSource(io.BytesIO(content)))])

    return asyncio.run(collect())


def test_a_pipe_gets_the_header_back_and_what_a_reconstruction_of_the_same_scan_gives() -> None:
    # With the planes of the stream's header: where a slice lies says what noise it shares.
    seen: list[Scan] = []
    engine = replace(
        ENGINE,
        describe=lambda scan, settings: seen.append(scan) or ENGINE.describe(scan, settings),
    )
    content = answered(Session(engine, echo_header=True), GOOD)
    found = list(ProtocolDeserializer(io.BytesIO(content)).deserialize())
    assert isinstance(found[0], ismrmrd.xsd.ismrmrdHeader)
    settings = Settings(preset="fast", samples=2, seed=5, self_check=False)
    [scan] = seen
    np.testing.assert_array_equal(scan.kspace, SCAN.kspace)
    np.testing.assert_array_equal(scan.mask, SCAN.mask)
    [expected] = [e for e in reconstruct(scan, PRIOR, settings) if isinstance(e, SlicePosterior)]
    mean, std = (item for item in found if isinstance(item, ismrmrd.Image))
    assert [image.image_series_index for image in (mean, std)] == [1, 2]
    slope = float(mean.meta["RescaleSlope"])
    for image, values in ((mean, np.abs(expected.mean)), (std, expected.magnitude_std)):
        assert np.abs(image.data[0, 0].T * slope - values).max() < slope
    texts = [item for item in found if isinstance(item, str)]
    assert any(text.startswith("INFO    image 1 of 1") for text in texts)
    assert mean.meta["ReconSeed"] == "5"
    assert not any(text.startswith("ERROR") for text in texts)


def test_a_measurement_that_takes_too_long_is_given_up() -> None:
    answer = understood(answered(Session(ENGINE, most_seconds=0.001), GOOD))
    assert "not done" in answer.texts[-1]
    assert answer.images == []


def test_a_pipe_has_no_later_session() -> None:
    content = sent(ConfigFile("trigger"), HEADER, *ACQUISITIONS)
    [text] = understood(answered(Session(ENGINE), content)).texts
    assert "mrd-mode" in text


def test_the_documentation_names_every_parameter_and_mode() -> None:
    text = (Path(__file__).parents[2] / "docs" / "scanners-and-hospitals.md").read_text()
    names = [*Parameters.model_fields, *Mode]
    assert [name for name in names if f"| `{name}`" not in text] == []


def test_noise_of_a_measurement_of_its_own_is_used() -> None:
    alone = 0.01 * noise(4, SIZE, seed=3)
    own = sent(FAST, HEADER, readout(alone, 0, flags=(19,)), *ACQUISITIONS)
    given = sent(ConfigFile("fast"), HEADER, readout(alone, 0, flags=(19,)), *ACQUISITIONS[:3])
    found = asyncio.run(noise_of(FileSource(io.BytesIO(given))))
    assert len(found.head) == 1
    plain = sent(FAST, HEADER, *ACQUISITIONS)
    expected = images_in(answered(Session(ENGINE), own))
    for image, same in zip(
        images_in(answered(Session(ENGINE, noise=found), plain)), expected, strict=True
    ):
        np.testing.assert_array_equal(image.data, same.data)
    with pytest.raises(ScanError) as caught:
        asyncio.run(noise_of(FileSource(io.BytesIO(plain))))
    assert caught.value.code == "no-noise"


def test_an_image_session_is_told_that_raw_data_are_needed() -> None:
    picture = ismrmrd.Image.from_array(np.ones((8, 8), np.float32))
    answer = understood(answered(Session(ENGINE), sent(ConfigFile("openrecon"), HEADER, picture)))
    assert answer.images == []
    assert answer.texts[0].startswith("ERROR   (no-readouts)")


def images_in(content: bytes) -> list[ismrmrd.Image]:
    return understood(content).images
