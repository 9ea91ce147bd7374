from __future__ import annotations

import pytest
import torch

from models.denoiser import NetworkPrior
from models.network import UNet
from models.network_configs import UNetConfig

TINY = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)


@pytest.fixture(scope="module")
def network() -> UNet:
    torch.manual_seed(0)
    net = UNet(TINY).eval()
    with torch.no_grad():  # MONAI starts its last layer at zero; an untrained output would be 0
        for parameter in net.parameters():
            parameter.normal_(0, 0.1)
    return net


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (1, 5), (6, 40), (33, 32)])
def test_any_matrix_size_keeps_its_shape(network: UNet, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        output = network(torch.randn(2, 2, *size), torch.tensor([100.0, 400.0]))
    assert output.shape == (2, 2, *size)
    assert output.isfinite().all()
    assert output.abs().max() > 0


def test_images_of_a_batch_do_not_see_each_other(network: UNet) -> None:
    image, label = torch.randn(3, 2, 19, 16), torch.tensor([50.0, 300.0, 700.0])
    with torch.inference_mode():
        together = network(image, label)
        alone = torch.cat([network(image[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_multiple_counts_patch_and_levels() -> None:
    assert UNetConfig().multiple == 16
    assert TINY.multiple == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prior_takes_and_gives_complex_images(network: UNet, dtype: torch.dtype) -> None:
    prior = NetworkPrior(network, (0.01, 1.0), dtype)
    noisy = torch.randn(2, 15, 18, dtype=torch.complex64)
    clean = prior.denoise(noisy, 0.3)
    assert clean.shape == noisy.shape
    assert clean.dtype == torch.complex64
    assert torch.view_as_real(clean).isfinite().all()


def test_prior_returns_its_input_where_there_is_no_noise(network: UNet) -> None:
    prior = NetworkPrior(network, (1e-5, 1.0))
    noisy = torch.randn(1, 16, 16, dtype=torch.complex64)
    torch.testing.assert_close(prior.denoise(noisy, 1e-5), noisy, rtol=1e-3, atol=1e-3)
