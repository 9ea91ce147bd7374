"""The benchmark of a GPU, rehearsed on the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Bench, Row, decompositions, equality, steps


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"), small=True)


def test_a_device_that_computes_otherwise_is_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["said"] for row in equality(bench)] == ["met", "met"]
    priors = []

    def load_prior(name: str, device: torch.device, dtype: torch.dtype) -> object:
        priors.append(load(name, device, dtype))
        if len(priors) % 2 == 0:  # the second is the device's
            priors[-1].scale *= 1.5
        return priors[-1]

    load = gpu.load_prior
    monkeypatch.setattr(gpu, "load_prior", load_prior)
    assert [row["said"] for row in equality(bench)] == ["NOT MET", "NOT MET"]


def test_decompositions_are_timed(bench: Bench) -> None:
    rows = list(decompositions(bench))
    assert [row["part"] for row in rows] == ["decomposition, n = 24", "decomposition, n = 32"]
    assert all(float(row["eigh as used s"]) > 0 for row in rows)


def test_what_there_is_no_time_for_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "left", 10.0)
    rows: list[Row] = list(steps(bench))
    assert rows == [{"part": "steps", "said": "the rest left out for lack of time"}]


def test_without_a_gpu_it_says_how_to_rehearse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not gpu.main([])
    assert "--device cpu --small" in capsys.readouterr().err
