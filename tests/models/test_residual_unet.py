import math

import pytest
import torch
from torch import Tensor

from models.network_configs import ResidualUNetConfig
from models.residual_unet import ResidualUNet, smooth_phase

TINY = ResidualUNetConfig(channels=(8, 12, 16), blocks=1)
LABEL = torch.tensor([400.0, 520.0])


def images(*shape: int) -> Tensor:
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(3))


def as_complex(image: Tensor) -> Tensor:
    return torch.view_as_complex(image.movedim(1, -1).contiguous())


def turned(image: Tensor, phase: Tensor | float) -> Tensor:
    factor = torch.exp(1j * torch.as_tensor(phase))
    return torch.view_as_real(as_complex(image) * factor).movedim(-1, 1)


def network(config: ResidualUNetConfig = TINY) -> ResidualUNet:
    torch.manual_seed(5)
    return ResidualUNet(config).eval()


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (9, 70), (1, 1)])
def test_any_matrix_size_keeps_its_shape(shape: tuple[int, int]) -> None:
    with torch.no_grad():
        output = network()(images(*shape), LABEL)
    assert output.shape == (2, 2, *shape)
    assert torch.isfinite(output).all()


def test_a_phase_of_the_receiver_passes_through() -> None:
    image = images(40, 48)
    with torch.no_grad():
        straight, after = network()(image, LABEL), network()(turned(image, 2.1), LABEL)
    difference = as_complex(after) - as_complex(turned(straight, 2.1))
    assert float(difference.abs().max()) < 1e-5 * float(straight.abs().max())


def test_the_smooth_phase_is_that_of_the_image() -> None:
    """A phase that turns once over 160 pixels is found within 0.05 rad, away from the rim."""
    row = torch.linspace(0, 2 * math.pi * 0.4, 64)[:, None].expand(64, 64)
    magnitude = 1 + 0.5 * torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    image = torch.view_as_real(torch.polar(magnitude, row)).movedim(-1, 0)[None]
    found = torch.angle(as_complex(smooth_phase(image, torch.tensor([0.1]))))[0]
    error = torch.angle(torch.exp(1j * (found - row)))[10:-10, 10:-10]
    assert float(error.abs().max()) < 0.05
    flat = smooth_phase(torch.zeros(1, 2, 20, 20), torch.tensor([0.1]))
    assert torch.equal(flat[0, :, 3, 4], torch.tensor([1.0, 0.0]))


def test_the_phase_is_found_under_any_noise() -> None:
    """Noise of 20 on a bright square of 96 pixels: its one phase is found within 0.3 rad."""
    generator = torch.Generator().manual_seed(2)
    image = torch.zeros(4, 2, 128, 128)
    image[:, 1, 16:112, 16:112] = 1.0
    noisy = image + 20 * torch.randn(image.shape, generator=generator)
    found = torch.angle(as_complex(smooth_phase(noisy, torch.full((4,), 20.0))))
    assert float((found[:, 40:88, 40:88] - math.pi / 2).abs().mean()) < 0.3


def test_images_of_a_batch_have_widths_of_their_own() -> None:
    image = images(40, 48)
    together = smooth_phase(image, torch.tensor([0.1, 9.0]))
    alone = [smooth_phase(image[k : k + 1], torch.tensor([s])) for k, s in enumerate((0.1, 9.0))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_noise_level_reaches_every_level_of_the_network() -> None:
    """After one step of training the output depends on the label."""
    net = network().train()
    net(images(32, 32), LABEL).square().sum().backward()
    assert all(
        float(parameter.grad.abs().max()) > 0  # type: ignore[union-attr]
        for name, parameter in net.named_parameters()
        if "embedding" not in name
    )


def test_images_of_a_batch_do_not_see_each_other() -> None:
    image = images(32, 40)
    with torch.no_grad():
        together = network()(image, LABEL)
        alone = network()(image[1:], LABEL[1:])
    assert float((together[1:] - alone).abs().max()) < 1e-6


def test_the_default_has_four_million_parameters() -> None:
    count = sum(p.numel() for p in ResidualUNet(ResidualUNetConfig()).parameters())
    assert 3.5e6 < count < 5e6
    assert ResidualUNetConfig().multiple == 16
