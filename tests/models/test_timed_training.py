"""Training by the clock: batches on the device, the schedule by time, weights in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from models import pieces as pieces_module
from models.errors import ModelError
from models.install import package
from models.network_configs import ResidualUNetConfig
from models.pieces import join_pieces, write_pieces
from models.processes import Process
from models.synthetic_heads import SyntheticHeads
from models.timed_training import DeviceBatches, draw_pool, fitting_batch, train_by_the_clock
from models.train import TrainingConfig, TrainingRun
from models.training_data import ImageFile, SliceSet
from tests.models.model_files import ABOUT

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    network=ResidualUNetConfig(channels=(4, 6), blocks=1),
    steps=1000,
    batch=2,
    patch_sizes=(16, 24),
    large_patch_share=0.5,
    schedule="trapezoid",
    warmup=1,
)


def image_file(path: Path, value: int, count: int = 5, shape: tuple[int, int] = (28, 20)) -> Path:
    images = np.full((count, *shape), value, np.uint8)
    images[:, 10:14, 10:14] = 255
    with h5py.File(path, "w") as file:
        file["images"] = images
    return path


@pytest.fixture
def slices(tmp_path: Path) -> SliceSet:
    first, second = (
        ImageFile(image_file(tmp_path / f"{value}.h5", value, count), weight=weight)
        for value, count, weight in ((64, 9, 1.0), (128, 3, 3.0))
    )
    return SliceSet([first, second])


def test_files_are_drawn_by_weight_and_a_step_decides_its_batch(slices: SliceSet) -> None:
    batches = DeviceBatches(slices, CONFIG, CPU)
    drawn = batches.batch(3, 2000)
    assert drawn.shape == (2000, 1, 28, 28)
    assert drawn.dtype == torch.float16
    assert torch.equal(drawn, batches.batch(3, 2000))
    assert not torch.equal(drawn, batches.batch(4, 2000))
    # Three in four from the second file: 5 standard errors are 0.05. 20 columns stand in air.
    bright = (drawn[:, 0, 5, 14] > 0.4).float().mean()
    assert float(bright) == pytest.approx(0.75, abs=0.05)
    assert not drawn[..., :4].any()
    assert not drawn[..., 24:].any()


def test_synthetic_heads_and_larger_pixels_have_their_shares(slices: SliceSet) -> None:
    config = CONFIG.model_copy(update={"synthetic": 0.25, "coarsened": 0.5, "largest_pixel": 2})
    pool = np.full((3, 28, 28), 0.9, np.float32)
    batches = DeviceBatches(slices, config, CPU, pool)
    drawn = batches.batch(1, 2000)[:, 0].float()
    # A synthetic image has no air at its sides; where pixels are larger it has some all round.
    synthetic = drawn[:, 13, 2] > 0.5
    assert float(synthetic[1000:].float().mean()) == pytest.approx(0.25, abs=0.07)
    factor = 2 ** np.random.default_rng((0, 1)).random()
    margin = (28 - round(28 / factor)) // 2
    assert margin > 0
    assert not drawn[:1000, :margin].any()
    assert bool((drawn[1000:, 0, 14] > 0.1).all())


def test_the_pool_is_the_same_from_one_process_and_from_several() -> None:
    volume = np.zeros((40, 40, 40), np.int16)
    volume[8:32, 8:32, 8:32] = 2
    volume[14:26, 14:26, 14:26] = 3
    heads = SyntheticHeads([volume])
    alone, together = (draw_pool(heads, 3, 24, 5, workers) for workers in (0, 2))
    assert alone.shape == (3, 24, 24)
    assert np.array_equal(alone, together)


def test_the_schedule_follows_the_clock(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingRun(CONFIG, tmp_path / "run", Process(0, 1, CPU))
    assert fitting_batch(run, DeviceBatches(slices, CONFIG, CPU)) == CONFIG.batch
    scheduled = []
    take = run.take_step

    def watched(canvases: torch.Tensor, place: int) -> torch.Tensor:
        scheduled.append((place, len(canvases)))
        return take(canvases, place)

    monkeypatch.setattr(run, "take_step", watched)
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    batches, out = DeviceBatches(slices, CONFIG, CPU), tmp_path / "pieces"
    marks = list(train_by_the_clock("tiny", run, batches, 1.5, out, every=0.5))
    places = [place for place, _ in scheduled]
    assert places == sorted(places)
    assert places[0] < 200
    assert places[-1] > 800
    # Larger patches are fewer, from half of the time on.
    assert {count for place, count in scheduled if place < 500} == {2}
    assert {count for place, count in scheduled if place >= 500} == {1}
    assert len(marks) >= 2
    assert 1.5 <= marks[-1].seconds < 10
    assert marks[-1].step == len(scheduled)
    changed = [
        not torch.equal(value, before[key]) for key, value in run.network.state_dict().items()
    ]
    assert all(changed)
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(marks)
    joined = join_pieces(out, "tiny", tmp_path / "joined")
    made = package(joined, tmp_path / "models", "tiny", **ABOUT)
    assert json.loads((made / "config.json").read_text())["symmetric"] is True
    assert TrainingRun(CONFIG, tmp_path / "run", Process(0, 1, CPU)).step == marks[-1].step


def test_a_loss_that_is_not_finite_ends_the_run(slices: SliceSet, tmp_path: Path) -> None:
    run = TrainingRun(CONFIG, tmp_path / "run", Process(0, 1, CPU))
    with torch.no_grad():
        next(iter(run.network.parameters())).fill_(float("nan"))
    batches = DeviceBatches(slices, CONFIG, CPU)
    with pytest.raises(ModelError, match="not finite"):
        list(train_by_the_clock("tiny", run, batches, 0.2, tmp_path / "pieces"))


def test_a_batch_that_does_not_fit_is_halved(
    slices: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"batch": 4})
    run = TrainingRun(config, tmp_path / "run", Process(0, 1, CPU))
    take = run.take_step

    def small(canvases: torch.Tensor, place: int) -> torch.Tensor:
        if len(canvases) > 2:
            raise torch.OutOfMemoryError("too much")
        return take(canvases, place)

    monkeypatch.setattr(run, "take_step", small)
    batches = DeviceBatches(slices, config, CPU)
    *_, last = train_by_the_clock("tiny", run, batches, 0.3, tmp_path / "pieces")
    assert last.batch == 2
    assert last.step > 0


def test_complex_images_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["images"] = np.ones((2, 16, 16), np.complex64)
    with pytest.raises(ModelError, match="magnitude"):
        DeviceBatches(SliceSet([ImageFile(tmp_path / "c.h5")]), CONFIG, CPU)


def test_weights_are_cut_joined_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "PIECE_BYTES", 2000)
    run = TrainingRun(CONFIG, tmp_path / "run", Process(0, 1, CPU))
    run.save()
    weights, folder = tmp_path / "run" / "weights.safetensors", tmp_path / "pieces"
    write_pieces(folder, "tiny", weights, CONFIG)
    first = sorted(folder.iterdir())
    assert len(first) > 3
    assert max(path.stat().st_size for path in first if path.suffix != ".json") <= 2000
    with torch.no_grad():
        for average in run.averages[0][1].parameters():
            average.add_(1)
    run.save()
    write_pieces(folder, "tiny", weights, CONFIG)
    second = sorted(folder.iterdir())
    assert len(second) == len(first)
    assert {path.name for path in second} & {path.name for path in first} == {"tiny.json"}
    joined = join_pieces(folder, "tiny", tmp_path / "joined")
    assert json.loads((joined / "training.json").read_text())["batch"] == CONFIG.batch
    broken = next(path for path in second if path.suffix != ".json")
    broken.write_bytes(bytes(broken.stat().st_size))
    with pytest.raises(ModelError, match="not those"):
        join_pieces(folder, "tiny", tmp_path / "broken")
    broken.unlink()
    with pytest.raises(ModelError, match="missing"):
        join_pieces(folder, "tiny", tmp_path / "broken")
    (folder / "tiny.json").write_text("{}")
    with pytest.raises(ModelError, match="does not describe"):
        join_pieces(folder, "tiny", tmp_path / "broken")
