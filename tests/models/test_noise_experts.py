"""Networks that share the noise levels of one prior."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import install, registry
from models.denoiser import NetworkPrior, precondition
from models.install import package
from models.loading import load_prior, verify_model
from models.model_folder import ModelError
from models.model_weights import read_model
from models.network_configs import NoiseExpertsConfig, ResidualUNetConfig
from models.noise_experts import NoiseExperts, joined, weights_of
from models.optimizers import hidden_convolutions
from models.processes import Process
from models.registry import read_config
from models.residual_unet import ResidualUNet
from models.train import TrainingConfig, train
from models.training_data import ImageFile
from service.training.runs import beginning_of
from tests.models.model_files import ABOUT, replace_tensors, write_run

FINE = ResidualUNetConfig(channels=(8, 12), blocks=1)
COARSE = ResidualUNetConfig(channels=(8, 8), blocks=1, reduction=4)
MIDDLE = ResidualUNetConfig(channels=(8, 8), blocks=1)
MIDDLE_FROM, SWITCH = 0.2, 0.7
TWO = NoiseExpertsConfig(fine=FINE, coarse=COARSE, switch=SWITCH)
THREE = NoiseExpertsConfig(
    fine=FINE, middle=MIDDLE, coarse=COARSE, middle_from=MIDDLE_FROM, switch=SWITCH
)


@pytest.fixture(params=[TWO, THREE], ids=["two", "three"])
def experts(request: pytest.FixtureRequest) -> NoiseExperts:
    torch.manual_seed(4)
    return NoiseExperts(request.param).eval()


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(count, 30, 44, dtype=torch.complex64, generator=generator)


@pytest.mark.parametrize("sigma", [0.05, 0.19, MIDDLE_FROM, 0.69, SWITCH, 5.0])
def test_each_level_is_answered_by_its_network(experts: NoiseExperts, sigma: float) -> None:
    below = experts.middle if experts.middle and sigma >= MIDDLE_FROM else experts.fine
    asked = experts.coarse if sigma >= SWITCH else below
    expected = NetworkPrior(asked, (0.02, 50.0)).denoise(images(2), sigma)
    found = NetworkPrior(experts, (0.02, 50.0)).denoise(images(2), sigma)
    assert torch.equal(found, expected)


def test_a_batch_of_several_levels_is_split(experts: NoiseExperts) -> None:
    """Each image comes back in its place, as if it had been alone."""
    prior, sigmas = NetworkPrior(experts, (0.02, 50.0)), (2.0, 0.1, 0.3, 9.0)
    together = prior.denoise_each(images(4), torch.tensor(sigmas))
    alone = [prior.denoise(images(4)[k : k + 1], sigma) for k, sigma in enumerate(sigmas)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_gradients_pass_through_all(experts: NoiseExperts) -> None:
    """As samplers with gradients of the denoiser need them (`benchmarks.samplers`)."""
    noisy = torch.randn(3, 2, 32, 32, requires_grad=True)
    clean = precondition(experts, noisy, torch.tensor([0.1, 0.5, 3.0]))
    clean.square().sum().backward()
    assert noisy.grad is not None
    assert bool((noisy.grad.abs().amax(dim=(1, 2, 3)) > 0).all())


def test_weights_are_taken_apart_and_joined(experts: NoiseExperts) -> None:
    tensors = experts.state_dict()
    parts = {name: weights_of(tensors, name) for name in ("fine", "middle", "coarse")}
    assert parts["fine"].keys() == ResidualUNet(FINE).state_dict().keys()
    assert parts["coarse"].keys() == ResidualUNet(COARSE).state_dict().keys()
    assert bool(parts["middle"]) == (experts.middle is not None)
    assert joined(parts) == tensors


def _run(folder: Path, network: ResidualUNetConfig, sigma_range: tuple[float, float]) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    save_file(ResidualUNet(network).state_dict(), folder / "weights.safetensors")
    (folder / "training.json").write_text(
        json.dumps({"network": network.model_dump(mode="json"), "sigma_range": sigma_range})
    )
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, with one of a network for much noise, `much`."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder))
    for module in (registry, install):
        monkeypatch.setattr(module, "SHIPPED_FOLDER", tmp_path / "shipped")
    package(_run(tmp_path / "coarse", COARSE, (SWITCH, 50.0)), folder, "much", **ABOUT)
    return folder


def test_a_run_is_packaged_with_a_model_above_it(own: Path, tmp_path: Path) -> None:
    """And the model that comes of it can itself be put above the next run."""
    run = _run(tmp_path / "run", FINE, (0.02, 10.0))
    package(run, own, "both", above="much", **ABOUT)
    package(run, own, "again", above="both", **ABOUT)
    for name in ("both", "again"):
        config = read_config(name)
        assert config.network == TWO
        assert config.sigma_range == (0.02, 50.0)
        verify_model(name)
    found, much = (load_prior(name).denoise(images(1), 2.0) for name in ("again", "much"))
    assert torch.equal(found, much)


def test_a_third_network_takes_the_levels_between(own: Path, tmp_path: Path) -> None:
    """Of a model by itself, and of one that has others: its own for little noise."""
    run = _run(tmp_path / "run", FINE, (0.02, 10.0))
    below = _run(tmp_path / "middle", MIDDLE, (MIDDLE_FROM, 10.0))
    package(below, own, "middle", **ABOUT | {"lowest_sigma": MIDDLE_FROM})
    package(below, own, "two", above="much", **ABOUT | {"lowest_sigma": MIDDLE_FROM})
    for between in ("middle", "two"):
        name = f"with-{between}"
        package(run, own, name, above="much", between=between, **ABOUT)
        assert read_config(name).network == THREE
        assert read_config(name).sigma_range == (0.02, 50.0)
        verify_model(name)
        for sigma, alone in ((0.3, "middle"), (2.0, "much")):
            found, expected = (load_prior(n).denoise(images(1), sigma) for n in (name, alone))
            assert torch.equal(found, expected)
    with pytest.raises(ModelError, match="--between needs a model --above it"):
        package(run, own, "wrong", between="middle", **ABOUT)


@pytest.mark.parametrize("middle_from", [None, SWITCH, 2.0])
def test_levels_that_divide_nothing_are_refused(middle_from: float | None) -> None:
    with pytest.raises(ValueError, match="middle_from"):
        NoiseExpertsConfig(
            fine=FINE, middle=MIDDLE, coarse=COARSE, middle_from=middle_from, switch=SWITCH
        )


def test_verifying_runs_the_network_for_much_noise(own: Path, tmp_path: Path) -> None:
    """Its weights are finite; what it computes with them is not."""
    made = package(_run(tmp_path / "run", FINE, (0.02, 10.0)), own, "both", above="much", **ABOUT)
    tensors = load_file(made / "weights.safetensors")
    replace_tensors(
        made,
        {k: torch.full_like(v, 3e38) if k.startswith("coarse.") else v for k, v in tensors.items()},
    )
    with pytest.raises(ModelError) as caught:
        verify_model("both")
    assert caught.value.code == "output-not-finite"


def test_only_residual_networks_share_noise_levels(own: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", random=False)
    with pytest.raises(ModelError, match="put above residual U-Nets only"):
        package(other, own, "wrong", above="much", **ABOUT)
    package(other, own, "unet", **ABOUT)
    with pytest.raises(ModelError, match="'unet' is a monai-unet"):
        package(_run(tmp_path / "run", FINE, (0.02, 10.0)), own, "wrong", above="unet", **ABOUT)


def test_a_run_of_two_networks_keeps_them_both_below_the_one_above(
    own: Path, tmp_path: Path
) -> None:
    """As what was begun with a model of three is: all but that for much noise are trained."""
    run = _run(tmp_path / "run", FINE, (0.02, 10.0))
    package(_run(tmp_path / "m", MIDDLE, (MIDDLE_FROM, 10.0)), own, "middle", **ABOUT)
    package(run, own, "three", above="much", between="middle", **ABOUT)
    beginning = beginning_of("three")
    assert beginning.network == NoiseExpertsConfig(fine=FINE, coarse=MIDDLE, switch=MIDDLE_FROM)
    assert beginning.above == "three"
    images_file = tmp_path / "images.h5"
    with h5py.File(images_file, "w") as file:
        file["images"] = torch.rand(4, 32, 32).numpy()
    config = TrainingConfig(
        network=beginning.network, steps=3, batch=8, patch_sizes=(16, 16), optimizer="muon"
    )
    data, alone = [ImageFile(images_file)], Process(0, 1, torch.device("cpu"))
    trained = tmp_path / "trained"
    list(train(config, data, trained, alone, initial=beginning.tensors))
    package(trained, own, "again", above="three", **ABOUT)
    assert read_config("again").network == THREE
    changed = {
        part
        for key, value in read_model(own / "again").tensors.items()
        for part in (key.partition(".")[0],)
        if not torch.equal(value, read_model(own / "three").tensors[key])
    }
    assert changed == {"fine", "middle"}
    with pytest.raises(ModelError, match="--between is for runs of one network"):
        package(trained, own, "wrong", above="three", between="middle", **ABOUT)


def test_muon_turns_hidden_kernels_of_every_network(experts: NoiseExperts) -> None:
    matrices = hidden_convolutions(experts)
    ends = [kernel for part in experts.parts for kernel in (part.head.weight, part.tail.weight)]
    assert not {id(kernel) for kernel in ends} & {id(kernel) for kernel in matrices}
    kernels = sum(value.ndim == 4 for value in experts.state_dict().values())
    assert len(matrices) == kernels - len(ends)
