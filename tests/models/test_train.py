from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import train as training
from models.network import UNetConfig
from models.registry import ModelError
from models.train import SliceData, TrainingConfig, load_average, train

CONFIG = TrainingConfig(
    network=UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4),
    steps=6,
    batch=2,
    patch_sizes=(16, 24),
    warmup=2,
)


class Killed(BaseException):
    """Stands for a signal: nothing in the training loop may catch it."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:32, :32]
    disc = (row - 16) ** 2 + (column - 16) ** 2 < 12**2
    for name, count in (("a", 5), ("b", 2)):
        noise = generator.integers(500, 1000, (count, 32, 32))
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["images"] = (disc * noise).astype(np.uint16)
    return folder


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every step that was started, whichever run it belonged to."""
    return _record(monkeypatch, lambda _: None)


def _record(monkeypatch: pytest.MonkeyPatch, before_step: Callable[[int], None]) -> list[float]:
    seen: list[float] = []
    original = training.denoising_loss

    def recorded(network: nn.Module, clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        before_step(len(seen))
        loss = original(network, clean, sigma, noise)
        seen.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(training, "denoising_loss", recorded)
    return seen


def _finish(data: Path, out: Path, save_every: int = 2) -> dict[str, Tensor]:
    for _ in train(CONFIG, data, out, save_every):
        pass
    return load_file(out / "weights.safetensors")


def test_a_killed_run_resumes_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = _record(patch, lambda _: None)
        expected = _finish(data, tmp_path / "whole")
    assert len(whole) == 6

    def kill(step: int) -> None:
        if step == 3:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        first = _record(patch, kill)
        with pytest.raises(Killed):
            _finish(data, tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        second = _record(patch, lambda _: None)
        resumed = _finish(data, tmp_path / "broken")

    # Killed after step 3; the last checkpoint is that of step 2.
    assert first + second == whole[:3] + whole[2:]
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_a_finished_run_is_not_trained_further(
    data: Path, tmp_path: Path, losses: list[float]
) -> None:
    _finish(data, tmp_path / "run")
    _finish(data, tmp_path / "run")
    assert len(losses) == 6


def test_loss_is_finite_and_the_averaged_network_loads(
    data: Path, tmp_path: Path, losses: list[float]
) -> None:
    weights = _finish(data, tmp_path / "run")
    assert np.isfinite(losses).all()
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    network = load_average(tmp_path / "run", CONFIG.network)
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[key].float())


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"steps": 60, "batch": 4, "learning_rate": 3e-3})
    progress = list(train(config, data, tmp_path / "run"))
    assert [line.step for line in progress] == [10, 20, 30, 40, 50, 60]
    assert progress[-1].loss < progress[0].loss


def test_slices_are_scaled_by_their_99th_percentile(data: Path) -> None:
    drawn = SliceData(data).draw(20, torch.Generator().manual_seed(0))
    assert drawn.shape == (20, 32, 32)
    top = torch.quantile(drawn.flatten(1), 0.99, dim=1)
    torch.testing.assert_close(top, torch.ones(20), rtol=0.02, atol=0)


def test_small_files_are_heard(data: Path) -> None:
    weights = SliceData(data).weights
    torch.testing.assert_close(weights[0] / weights[1], torch.tensor(2.5).sqrt())


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no \.h5 file"):
        SliceData(tmp_path)


def test_a_run_resumes_with_more_steps_but_not_with_other_options(
    data: Path, tmp_path: Path
) -> None:
    config = TrainingConfig(
        network=UNetConfig(channels=(8, 8)), steps=1, batch=2, patch_sizes=(16, 16)
    )
    assert [p.step for p in train(config, data, tmp_path)] == [1]
    longer = config.model_copy(update={"steps": 2})
    assert [p.step for p in train(longer, data, tmp_path)] == [2]
    with pytest.raises(ModelError, match="another configuration"):
        list(train(config.model_copy(update={"batch": 3}), data, tmp_path))
