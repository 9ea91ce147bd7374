"""Recordings of a network: when they are made, and that they change no number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import replay
from models.denoiser import NetworkPrior
from models.network_configs import ResidualUNetConfig
from models.replay import Function, Recording, Replayed, wanted
from models.residual_unet import ResidualUNet


class Recorder:
    """Records as a GPU would: what is replayed reads and writes its own memory."""

    def __init__(self, error: Exception | None = None) -> None:
        self.shapes: list[torch.Size] = []
        self.error = error

    def __call__(self, function: Function, images: Tensor, levels: Tensor) -> Recording:
        if self.error is not None:
            raise self.error
        self.shapes.append(images.shape)
        images, levels = images.clone(), levels.clone()
        output = function(images, levels)

        def again() -> None:
            output.copy_(function(images, levels))

        return Recording(images, levels, output, again)


def half(images: Tensor, levels: Tensor) -> Tensor:
    return images * levels[:, None, None] / 2


def call(function: Replayed, batch: int, level: float) -> None:
    images = torch.full((batch, 4, 4), level)
    levels = torch.full((batch,), level)
    assert torch.equal(function(images, levels), half(images, levels))


def test_a_shape_is_recorded_when_it_comes_again_and_again() -> None:
    recorder = Recorder()
    function = Replayed(half, recorder)
    for turn in range(6):
        call(function, 2, float(turn))
        call(function, 3, -float(turn))
    call(function, 5, 1.0)
    assert recorder.shapes == [(2, 4, 4), (3, 4, 4)]


def test_what_was_given_out_does_not_change_afterwards() -> None:
    function = Replayed(half, Recorder())
    for _ in range(4):
        kept = function(torch.ones(1, 2, 2), torch.ones(1))
    function(torch.zeros(1, 2, 2), torch.ones(1))
    assert torch.equal(kept, torch.full((1, 2, 2), 0.5))


def test_few_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_MOST", 2)
    recorder = Recorder()
    function = Replayed(half, recorder)
    for batch in (1, 2, 3, 1):
        for _ in range(3):
            call(function, batch, 1.0)
    assert [shape[0] for shape in recorder.shapes] == [1, 2, 3, 1]


def test_a_network_that_cannot_be_recorded_runs_as_before() -> None:
    function = Replayed(half, Recorder(RuntimeError("operation not permitted when capturing")))
    call(function, 1, 1.0)
    call(function, 1, 1.0)
    with pytest.warns(UserWarning, match="not permitted"):
        call(function, 1, 2.0)
    call(function, 1, 3.0)


def test_a_recording_that_does_not_fit_is_done_without() -> None:
    function = Replayed(half, Recorder(torch.OutOfMemoryError("CUDA out of memory")))
    for level in (1.0, 2.0, 3.0, 4.0):
        call(function, 1, level)


def test_graphs_are_for_gpus_and_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(replay.VARIABLE, raising=False)
    assert wanted(torch.device("cuda", 0))
    assert not wanted(torch.device("cpu"))
    monkeypatch.setenv(replay.VARIABLE, "0")
    assert not wanted(torch.device("cuda", 0))


def test_a_prior_replays_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = ResidualUNet(ResidualUNetConfig(channels=(4, 6), blocks=1))
    noisy = torch.randn(2, 16, 16, dtype=torch.complex64)
    sigmas, recorder = (0.1, 0.2, 0.4, 0.8, 1.6), Recorder()
    expected = [NetworkPrior(network, (0.01, 5.0)).denoise(noisy, sigma) for sigma in sigmas]
    monkeypatch.setattr("models.denoiser.wanted", lambda _device: True)
    monkeypatch.setattr("models.denoiser.record_graph", recorder)
    replayed = NetworkPrior(network, (0.01, 5.0))
    for sigma, clean in zip(sigmas, expected, strict=True):
        assert torch.allclose(replayed.denoise(noisy, sigma), clean, atol=1e-6)
    assert recorder.shapes == [(2, 16, 16)]
