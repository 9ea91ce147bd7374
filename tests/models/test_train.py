from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import train as training
from models.augment import Augmentation
from models.errors import ModelError
from models.network_configs import UNetConfig
from models.processes import Process
from models.train import Progress, TrainingConfig, denoising_loss, train
from models.training_data import ImageFile

TINY = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
CONFIG = TrainingConfig(
    network=TINY, steps=6, batch=4, patch_sizes=(16, 24), warmup=2, save_every=2, validate_every=3
)
ALONE = Process(0, 1, torch.device("cpu"))
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for a signal: nothing in the training loop may catch it."""


@pytest.fixture
def data(tmp_path: Path) -> list[ImageFile]:
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:32, :32]
    disc = (row - 16) ** 2 + (column - 16) ** 2 < 12**2
    path = tmp_path / "images.h5"
    with h5py.File(path, "w") as file:
        file["images"] = (disc * generator.integers(500, 1000, (5, 32, 32))).astype(np.uint16)
    return [ImageFile(path)]


def follow(
    data: list[ImageFile], out: Path, config: TrainingConfig = CONFIG, **options: object
) -> list[Progress]:
    return list(train(config, data, out, ALONE, **options))


def _record(monkeypatch: pytest.MonkeyPatch, before_step: Callable[[int], None]) -> list[float]:
    """The loss of every step that was started."""
    seen: list[float] = []
    original = training.denoising_loss

    def recorded(network: nn.Module, *given: Tensor) -> Tensor:
        before_step(len(seen))
        loss = original(network, *given)
        seen.append(float(loss.detach().mean()))
        return loss

    monkeypatch.setattr(training, "denoising_loss", recorded)
    return seen


@pytest.mark.parametrize("killed_before", [0, 1, 3, 5])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    data: list[ImageFile], tmp_path: Path, killed_before: int
) -> None:
    def kill(step: int) -> None:
        if step == killed_before:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        whole = _record(patch, lambda _: None)
        follow(data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        first = _record(patch, kill)
        with pytest.raises(Killed):
            follow(data, tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        second = _record(patch, lambda _: None)
        follow(data, tmp_path / "broken")
    checkpoint = killed_before // 2 * 2
    assert len(whole) == 6
    assert first == whole[:killed_before]
    assert second == whole[checkpoint:]
    expected = load_file(tmp_path / "whole" / "weights.safetensors")
    resumed = load_file(tmp_path / "broken" / "weights.safetensors")
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_a_worker_process_changes_nothing_but_speed(data: list[ImageFile], tmp_path: Path) -> None:
    follow(data, tmp_path / "none")
    follow(data, tmp_path / "one", CONFIG.model_copy(update={"workers": 1}))
    none, one = (load_file(tmp_path / name / "weights.safetensors") for name in ("none", "one"))
    assert all(torch.equal(none[key], one[key]) for key in none)


def test_a_finished_run_is_not_trained_further(data: list[ImageFile], tmp_path: Path) -> None:
    assert [line.step for line in follow(data, tmp_path / "run")] == [6]
    assert follow(data, tmp_path / "run") == []


def test_training_lowers_the_loss_and_helps_on_images_held_out(
    data: list[ImageFile], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(
        update={"steps": 60, "batch": 8, "learning_rate": 3e-3, "validate_every": 30}
    )
    lines = follow(data, tmp_path / "run", config, validation=data)
    assert [line.step for line in lines] == [10, 20, 30, 40, 50, 60]
    assert lines[-1].loss < lines[0].loss
    assert lines[-1].seconds_left == 0
    validated = [line.validation for line in lines if line.validation]
    assert len(validated) == 2
    # Noise of 0.5 per component is 6.02 dB on its own.
    assert validated[1][0.5] > 6.02 + 4
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert abs(float(rows[5]["psnr_0.5"]) - validated[1][0.5]) < 1e-3


def test_log_lines_after_the_checkpoint_are_dropped_when_resuming(
    data: list[ImageFile], tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"steps": 20, "save_every": 20})
    follow(data, tmp_path, config)
    (tmp_path / "log.csv").write_text((tmp_path / "log.csv").read_text() + "30,0.1,1.0\n")
    follow(data, tmp_path, config.model_copy(update={"steps": 30}))
    steps = [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()]
    assert steps == ["step", "10", "20", "30"]


def test_weights_of_another_network_are_refused(data: list[ImageFile], tmp_path: Path) -> None:
    initial = {"unet.conv_in.conv.weight": torch.zeros(3, 3)}
    with pytest.raises(ModelError, match="do not fit the network"):
        follow(data, tmp_path, initial=initial)


def test_a_run_resumes_with_more_steps_but_not_with_other_options(
    data: list[ImageFile], tmp_path: Path
) -> None:
    follow(data, tmp_path, CONFIG.model_copy(update={"steps": 1}))
    longer = CONFIG.model_copy(update={"steps": 2, "workers": 1})
    assert [p.step for p in follow(data, tmp_path, longer)] == [2]
    for change in ({"batch": 3}, {"augmentation": Augmentation(noise=0.01)}):
        with pytest.raises(ModelError, match="another configuration"):
            follow(data, tmp_path, CONFIG.model_copy(update=change))


def test_a_loss_that_is_not_finite_stops_the_run(
    data: list[ImageFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training,
        "denoising_loss",
        lambda net, x, *_: (net(x, x[:, 0, 0, 0]) * torch.nan).mean((1, 2, 3)),
    )
    with pytest.raises(ModelError, match="lower learning rate"):
        follow(data, tmp_path)


@pytest.mark.parametrize("schedule", ["cosine", "power", "trapezoid"])
def test_learning_rates_warm_up_and_fall(schedule: str) -> None:
    config = TrainingConfig(
        steps=4000, warmup=100, plateau=1000, learning_rate=1.0, schedule=schedule
    )
    rates = [config.rate(step) for step in range(4000)]
    assert abs(rates[0] - 0.01) < 1e-6
    assert max(rates) <= 1
    assert rates.index(max(rates)) >= 99
    assert all(after <= before for before, after in pairwise(rates[99:]))
    # Power has fallen to the root of a quarter; the others end at zero.
    assert abs(rates[-1] - (0.5 if schedule == "power" else 0.0)) < 2e-3
    assert schedule != "trapezoid" or rates[2999] == 1


@pytest.mark.parametrize(
    "options", [{"optimizer": "muon"}, {"balanced": True}, {"slow_ema_decay": 0.9999}]
)
def test_every_way_of_learning_resumes_as_if_nothing_had_happened(
    data: list[ImageFile], tmp_path: Path, options: dict[str, object]
) -> None:
    config = CONFIG.model_copy(update=options)
    follow(data, tmp_path / "whole", config)

    def kill(step: int) -> None:
        if step == 4:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        _record(patch, kill)
        with pytest.raises(Killed):
            follow(data, tmp_path / "broken", config)
    follow(data, tmp_path / "broken", config)
    names = {file.name for file in (tmp_path / "whole").glob("*.safetensors")}
    assert ("weights-slow.safetensors" in names) == ("slow_ema_decay" in options)
    for name in names:
        expected, resumed = (load_file(tmp_path / run / name) for run in ("whole", "broken"))
        assert all(torch.equal(resumed[key], expected[key]) for key in expected)


def test_the_balance_learns_the_loss_of_every_noise_level() -> None:
    """The weighted loss is least where each level is divided by its own expected loss."""
    torch.manual_seed(0)
    balance = training.NoiseBalance()
    optimizer = torch.optim.Adam(balance.parameters(), lr=3e-2)
    for _ in range(600):
        sigma = torch.exp(torch.randn(64) * 1.3 - 2.8)
        losses = 0.02 + sigma.sqrt() * torch.rand(64) * 2
        optimizer.zero_grad()
        balance(losses, sigma).backward()
        optimizer.step()
    sigma = torch.tensor([0.01, 0.05, 0.3])
    with torch.no_grad():
        pulls = [
            float(torch.func.grad(lambda loss, s=s: balance(loss, s))(torch.ones(1)))
            for s in sigma[:, None]
        ]
    expected = 1 / (0.02 + sigma.sqrt())
    torch.testing.assert_close(torch.tensor(pulls), expected, rtol=0.25, atol=0)


def test_large_patches_cost_as_many_pixels() -> None:
    config = TrainingConfig(steps=100, batch=64, patch_sizes=(128, 256), large_patch_share=0.3)
    assert [(config.patch(step), config.patches(step)) for step in (0, 69, 70, 99)] == [
        (128, 64),
        (128, 64),
        (256, 16),
        (256, 16),
    ]


def test_two_processes_train_one_network(data: list[ImageFile], tmp_path: Path) -> None:
    """Under torchrun with gloo: half of the batch each, gradients averaged, one writer."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, torch\n"
        "from pathlib import Path\n"
        "from models import train as training\n"
        "from models.processes import Process\n"
        "from models.training_data import ImageFile\n"
        "torch.set_num_threads(1)\n"
        "config = training.TrainingConfig.model_validate_json(sys.argv[1])\n"
        "with Process.join(torch.device('cpu')) as process:\n"
        "    run = training.TrainingRun(config, Path(sys.argv[3]), process)\n"
        "    data = training.SliceSet([ImageFile(Path(sys.argv[2]))])\n"
        "    lines = list(run.follow(data, []))\n"
        "    total = [float(p.double().abs().sum()) for p in run.network.parameters()]\n"
        "    report = {'steps': [l.step for l in lines], 'total': total}\n"
        "    Path(sys.argv[4], f'{process.rank}.json').write_text(json.dumps(report))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), CONFIG.model_dump_json()]
    command += [str(data[0].path), str(tmp_path / "run"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["steps"] == [6]
    assert second["steps"] == []
    assert first["total"] == second["total"]
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_the_loss_weighs_the_error_where_it_is_in_kspace() -> None:
    """All of it alike gives the same loss; of an error of one frequency, that one's weight."""
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 2, 16, 18)
    sigma = torch.tensor([0.1, 0.5, 2.0])
    network = nn.Conv2d(2, 2, 3, padding=1)

    def raw(image: Tensor, _label: Tensor) -> Tensor:
        return network(image)

    plain = denoising_loss(raw, clean, sigma, noise)
    same = denoising_loss(raw, clean, sigma, noise, torch.ones(3, 16, 18))
    torch.testing.assert_close(same, plain)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(18), indexing="ij")
    wave = torch.polar(torch.ones(16, 18), 2 * torch.pi * (3 * rows / 16 - 2 * columns / 18))
    image = torch.stack([wave.real, wave.imag])[None]
    # What this network gives is a tenth of the wave too much, whatever it sees.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "precondition", lambda *_: 1.1 * image)
        whole = denoising_loss(raw, image, sigma[:1], noise[:1, :, :, :18])
        weights = torch.zeros(1, 16, 18)
        weights[0, 8 + 3, 9 - 2] = 0.25
        found = denoising_loss(raw, image, sigma[:1], noise[:1, :, :, :18], weights)
    torch.testing.assert_close(found, 0.25 * whole)
