"""A cascade from its training run to a prior, and what its configuration may not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.cascade import CascadeConfig, WienerCascade
from models.denoiser import NetworkPrior
from models.errors import ModelError
from models.install import package
from models.registry import load_prior
from tests.models.model_files import ABOUT, TINY, rewrite

CASCADE = CascadeConfig(pilot=TINY, correction=TINY.model_copy(update={"inputs": 3}))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "models"))
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(0)
    network = WienerCascade(CASCADE)
    save_file(network.state_dict(), run / "weights.safetensors")
    about = {"network": CASCADE.model_dump(mode="json"), "sigma_range": [0.01, 5.0]}
    (run / "training.json").write_text(json.dumps(about))
    return package(run, tmp_path / "models", "cascade", **ABOUT)


def test_a_cascade_is_packaged_and_loaded(model: Path) -> None:
    prior = load_prior("cascade", compute_dtype=torch.float32)
    torch.manual_seed(0)
    network = WienerCascade(CASCADE)
    with torch.no_grad():
        for parameter in network.parameters():  # stored in bfloat16
            parameter.copy_(parameter.bfloat16().float())
    noisy = torch.randn(1, 30, 34, dtype=torch.complex64)
    expected = NetworkPrior(network, (0.01, 5.0)).denoise(noisy, 0.3)
    torch.testing.assert_close(prior.denoise(noisy, 0.3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameterization": {"kind": "edm", "sigma_data": 0.5}}, "label of our own"),
        ({"parameterization": {"kind": "vp-epsilon"}}, "label of our own"),
        ({"network": TINY.model_dump(mode="json") | {"inputs": 3}}, "takes one image"),
    ],
)
def test_a_noise_level_that_the_filter_would_misread_is_refused(
    model: Path, changes: dict[str, object], reason: str
) -> None:
    rewrite(model, **changes)
    with pytest.raises(ModelError, match=reason):
        load_prior("cascade")
