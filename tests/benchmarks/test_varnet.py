"""VarNet as the supervised anchor: what it is given, that it learns, and that a run goes on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.varnet import (
    RECIPE,
    Received,
    Run,
    Training,
    as_received,
    picture,
    received,
    score,
    train,
    training_images,
)
from models.augment import Augmentation
from models.errors import ModelError
from models.training_data import BatchStream
from recon.phantom import receive, simulate
from recon.reference import reference_of
from recon.undersampling import undersampling_mask
from service.training.runs import read_plan

TINY = Training(
    cascades=2,
    channels=4,
    pools=2,
    map_channels=2,
    map_pools=2,
    side=48,
    coils=(4,),
    warmup=5,
    learning_rate=3e-3,
)


@pytest.fixture
def images(tmp_path: Path) -> BatchStream:
    heads = np.abs(simulate(6, 1, 48, 48)[1])
    with h5py.File(tmp_path / "heads.h5", "w") as file:
        file["images"] = heads
    plan = read_plan(RECIPE).model_copy(update={"data": (tmp_path / "heads.h5",), "labels": ()})
    return training_images(plan, TINY)


def a_scan(seed: int = 3) -> Received:
    image = simulate(1, 1, 48, 48, seed=seed)[1]
    full, clean = receive(image, 4, 0.01, seed), receive(image, 4, 0.0)
    mask = undersampling_mask((48, 48), "equispaced", 4, 0.08, 0)
    return as_received(full.kspace[0], mask, reference_of(clean, clean.mask).images[0])


def test_what_coils_receive_of_an_image_is_undersampled_and_aims_at_its_coils() -> None:
    image = torch.from_numpy(simulate(1, 1, 48, 64)[1][0])
    quiet = replace(TINY, noise=(1e-9, 2e-9))
    given = received(image, quiet, 5)
    assert given.kspace.shape == (1, 4, 48, 64, 2)
    assert given.mask.shape == (1, 1, 1, 64, 1)
    assert not given.kspace[:, :, :, ~given.mask.flatten()].any()
    centre = slice(32 - given.central // 2, 32 + given.central // 2)
    assert given.central == 5
    assert given.mask.flatten()[centre].all()
    assert int(given.mask.sum()) == pytest.approx(16, abs=3)
    # Air stays air in the target, and coils do not move the head.
    assert float(given.target[0][image.abs() == 0].abs().max()) < 1e-6
    assert float(given.target[0][image.abs() > 0].min()) > 0
    other, again = received(image, quiet, 6), received(image, quiet, 5)
    assert torch.equal(given.kspace, again.kspace)
    assert not torch.equal(given.target, other.target)


def test_a_mask_of_two_axes_is_kept_whole() -> None:
    full = receive(simulate(1, 1, 48, 48)[1], 4, 0.01)
    mask = undersampling_mask((48, 48), "poisson", 4, 0.15, 0)
    given = as_received(full.kspace[0], mask, np.zeros((48, 48)))
    assert given.mask.shape == (1, 1, 48, 48, 1)
    assert picture(TINY.network(), given).shape == (48, 48)


def test_it_learns_and_its_images_are_in_the_units_of_the_data(
    images: BatchStream, tmp_path: Path
) -> None:
    given = a_scan()
    run = Run(tmp_path / "run", TINY, Augmentation())
    before = score(run.average, given)
    losses = list(islice(run.learn(images, 3600), 40))
    assert np.mean(losses[-20:]) < 0.92 * np.mean(losses[:5])
    assert score(run.average, given) > before + 1
    louder = given._replace(kspace=1000 * given.kspace)
    ratio = picture(run.average, louder) / picture(run.average, given).clip(1e-6)
    assert np.median(ratio) == pytest.approx(1000, rel=1e-3)


def test_a_run_goes_on_where_it_stopped(images: BatchStream, tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", TINY, Augmentation())
    wanted = list(islice(whole.learn(images, 1e9), 6))
    begun = Run(tmp_path / "parts", TINY, Augmentation())
    first = list(islice(begun.learn(images, 1e9), 3))
    begun.save()
    resumed = Run(tmp_path / "parts", TINY, Augmentation())
    assert resumed.step == 3
    assert resumed.seconds == pytest.approx(begun.seconds)
    assert first + list(islice(resumed.learn(images, 1e9), 3)) == pytest.approx(wanted, rel=1e-3)
    assert resumed.seconds > begun.seconds


def test_time_is_kept_and_a_log_written(images: BatchStream, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", TINY, Augmentation())
    train(run, images, 1 / 3600, [a_scan()])
    assert 1 < run.seconds < 3
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert lines[0] == "step,CPU hours,1 - SSIM,validation PSNR"
    assert int(lines[-1].split(",")[0]) == run.step
    assert list(run.learn(images, 1.0)) == []


def test_without_images_nothing_is_learned(tmp_path: Path) -> None:
    plan = read_plan(RECIPE).model_copy(update={"data": (tmp_path / "none.h5",), "labels": ()})
    with pytest.raises(ModelError, match="none of the files"):
        training_images(plan, TINY)
