"""Images packed, priors trained by the clock, weights joined: the way of a lent GPU, on a CPU."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from models.errors import ModelError
from models.train import TrainingConfig
from recon.phantom import simulate
from service.training.lent_gpu import DEFAULT_RECIPES, images_of, main, rehearsed
from service.training.packed import pack, unpack
from service.training.runs import read_plan


@pytest.fixture
def images(tmp_path: Path) -> Path:
    heads = np.abs(simulate(4, 1, 40, 48)[1])
    with h5py.File(tmp_path / "heads.h5", "w") as file:
        file["images"] = (255 * heads / heads.max()).astype(np.uint8)
        file.create_dataset("label", data=["a/0", "a/1", "b/0", ""], dtype=h5py.string_dtype())
    return tmp_path / "heads.h5"


def recipe(folder: Path, name: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(
        'data = ["elsewhere/heads.h5"]\nout = "unused"\n[weights]\n"heads.h5" = 2\n'
        "[training]\nsteps = 100\npatch_sizes = [64, 96]\nwarmup = 2\n"
        '[training.network]\narchitecture = "residual-unet"\nchannels = [48, 64]\n'
    )
    return file


def test_packs_are_small_and_come_back_to_the_bit(images: Path, tmp_path: Path) -> None:
    assert pack([images, images], tmp_path / "packs", limit=2500) > 2
    sizes = [path.stat().st_size for path in (tmp_path / "packs").iterdir()]
    assert max(sizes) <= 2500
    (found,) = unpack(tmp_path / "packs", tmp_path / "back")
    with h5py.File(images) as before, h5py.File(found) as after:
        twice = np.concatenate([before["images"][()]] * 2)
        assert np.array_equal(after["images"][()], twice)
        assert list(after["label"].asstr()[()]) == ["a/0", "a/1", "b/0", ""] * 2
    pack([images], tmp_path / "lossy", quality=60)
    assert (tmp_path / "lossy" / "shard_0.bin").stat().st_size < sum(sizes) / 2


@pytest.mark.parametrize("content", [b"\x10\0\0\0cut", b"\x02\0", b"\x04\0\0\0abcd", b"\xff" * 9])
def test_a_pack_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "shard_0.bin").write_bytes(content)
    with pytest.raises(ModelError, match="is cut off"):
        unpack(tmp_path, tmp_path / "out")


def test_a_name_in_a_pack_is_no_path(images: Path, tmp_path: Path) -> None:
    pack([images], tmp_path / "packs")
    file = tmp_path / "packs" / "shard_0.bin"
    file.write_bytes(file.read_bytes().replace(b"heads.h5", b"../ds.h5"))
    assert unpack(tmp_path / "packs", tmp_path / "in" / "here") == [tmp_path / "in/here/ds.h5"]


def test_only_bytes_are_packed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "real.h5", "w") as file:
        file["images"] = np.ones((2, 8, 8), np.float32)
    with pytest.raises(ModelError, match="uint8"):
        pack([tmp_path / "real.h5"], tmp_path / "packs")


def test_two_recipes_are_rehearsed_and_joined(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packs, out = tmp_path / "packs", tmp_path / "runs"
    assert main(["pack", str(packs), str(images)], time.monotonic()) == 0
    recipes = [str(recipe(tmp_path, name)) for name in ("large", "little")]
    command = ["train", "--packs", str(packs), "--out", str(out), "--rehearsal"]
    command += ["--minutes", "4", "--recipes", *recipes]
    assert main(command, time.monotonic()) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert "large: 1 slices" in told
    assert "done after" in told
    names = sorted(path.name for path in (out / "pieces").iterdir())
    assert [name for name in names if name.endswith(".json")] == ["large.json", "little.json"]
    assert main(["join", str(out / "pieces"), "little", str(tmp_path / "run")], 0) == 0
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert main(["join", str(out / "pieces"), "nobody", str(tmp_path / "run")], 0) == 1
    assert "nobody.json is missing" in capsys.readouterr().out.replace("\n", "")


def test_what_cannot_be_done_is_said(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "runs")]
    common += ["--recipes", str(recipe(tmp_path, "one"))]
    with pytest.raises(SystemExit):
        main([*common, str(recipe(tmp_path, "two")), "--shares", "1"], 0)
    assert "its share" in capsys.readouterr().err
    images.unlink()
    assert main([*common, "--rehearsal"], time.monotonic()) == 1
    assert "none of the recipe's files" in capsys.readouterr().out


def test_the_shipped_recipes_fit_a_lease(tmp_path: Path, images: Path) -> None:
    for file in DEFAULT_RECIPES:
        plan = read_plan(file)
        small = rehearsed(plan.training)
        assert isinstance(small, TrainingConfig)
        assert small.patch_sizes == (32, 48)
        assert not small.compiled
    everything = read_plan(DEFAULT_RECIPES[0]).model_copy(update={"data": (tmp_path / "all",)})
    assert len(images_of(everything, tmp_path, 2)) == 2
