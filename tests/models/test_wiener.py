from __future__ import annotations

import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from models.cascade import CascadeConfig, WienerCascade
from models.denoiser import SIGMA_DATA, precondition
from models.network import UNetConfig
from models.wiener import WienerFilter, cosine_transform


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_transform_is_scipys_orthonormal_dct() -> None:
    block = images(8, 8)
    ours = torch.einsum("fij,ij->f", cosine_transform(8), block)
    theirs = dctn(block.numpy(), norm="ortho").ravel()
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 2), (12, 4), (4, 1)])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_windows_cut_and_put_together_as_loops_do(
    window: int, stride: int, shape: tuple[int, int]
) -> None:
    """Against windows taken one by one, with the formulas of Dabov et al."""
    layer = WienerFilter(window, stride)
    noisy, pilot = images(1, 2, *shape), images(1, 2, *shape, seed=1)
    margin = window - stride
    pad = (margin,) * 4
    wide = [torch.nn.functional.pad(x, pad, mode="reflect")[0].double() for x in (noisy, pilot)]
    filters = cosine_transform(window).double()
    total = torch.zeros_like(wide[0])
    weights = torch.zeros_like(wide[0])
    for top in range(0, wide[0].shape[1] - window + 1, stride):
        for left in range(0, wide[0].shape[2] - window + 1, stride):
            place = (slice(None), slice(top, top + window), slice(left, left + window))
            both = [torch.einsum("fij,cij->cf", filters, x[place]) for x in wide]
            energy = both[1].square().sum(0)
            gain = energy / (energy + 2 * 0.3**2)
            weight = 1 / (gain.square().sum() + 1e-2)
            total[place] += weight * torch.einsum("fij,cf->cij", filters, both[0] * gain)
            weights[place] += weight
    inside = (slice(None), slice(margin, margin + shape[0]), slice(margin, margin + shape[1]))
    with torch.no_grad():
        ours = layer(noisy, pilot, torch.tensor([0.3]))[0]
    torch.testing.assert_close(ours.double(), (total / weights)[inside], rtol=1e-4, atol=1e-5)


def test_without_noise_the_image_passes() -> None:
    noisy, pilot = images(2, 2, 32, 24), images(2, 2, 32, 24, seed=1)
    passed = WienerFilter()(noisy, pilot, torch.tensor([1e-6, 1e-6]))
    torch.testing.assert_close(passed, noisy, rtol=0, atol=1e-4)


def test_a_true_pilot_leaves_little_noise_where_the_image_is_flat() -> None:
    clean = torch.ones(1, 2, 64, 64)
    noisy = clean + 0.2 * images(1, 2, 64, 64)
    with torch.no_grad():
        error = WienerFilter()(noisy, clean, torch.tensor([0.2])) - clean
    # Only the mean of each 8 x 8 window is kept: an eighth of the noise, less by overlapping.
    assert error.std() < 0.2 / 8


def test_a_global_phase_passes_through() -> None:
    layer = WienerFilter()
    turn = torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    noisy, pilot = (torch.view_as_complex(images(1, 32, 32, 2, seed=seed)) for seed in (0, 1))

    def filtered(a: Tensor, b: Tensor) -> Tensor:
        channels = [torch.view_as_real(x).movedim(-1, 1).contiguous() for x in (a, b)]
        with torch.no_grad():
            out = layer(*channels, torch.tensor([0.4]))
        return torch.view_as_complex(out.movedim(1, -1).contiguous())

    torch.testing.assert_close(
        filtered(noisy * turn, pilot * turn), filtered(noisy, pilot) * turn, rtol=1e-4, atol=1e-5
    )


TINY = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
CASCADE = CascadeConfig(pilot=TINY, correction=TINY.model_copy(update={"inputs": 3}))


@pytest.mark.parametrize("shape", [(32, 32), (37, 29), (23, 41)])
def test_before_training_the_cascade_is_its_wiener_filter(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = WienerCascade(CASCADE).eval()
    for parameter in network.pilot.parameters():  # its output layer starts at zero as well
        torch.nn.init.normal_(parameter, std=0.05)
    noisy, sigma = images(2, 2, *shape), torch.tensor([0.05, 0.8])
    with torch.no_grad():
        pilot = precondition(network.pilot, noisy, sigma)
        whole = precondition(network, noisy, sigma)
        rows, columns = (-size % CASCADE.stride for size in shape)
        pad = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        padded = [torch.nn.functional.pad(x, pad) for x in (noisy, pilot)]
        expected = network.wiener(*padded, sigma)
    top, left = rows // 2, columns // 2
    expected = expected[..., top : top + shape[0], left : left + shape[1]]
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-4)


def test_every_stage_is_trained() -> None:
    torch.manual_seed(0)
    network = WienerCascade(CASCADE)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    clean = SIGMA_DATA * images(2, 2, 32, 32)
    noisy = clean + 0.1 * images(2, 2, 32, 32, seed=1)
    precondition(network, noisy, torch.tensor([0.1, 0.1])).sub(clean).square().mean().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.wiener.parameters())
    assert sum(float(p.grad.abs().sum()) for p in network.pilot.parameters()) > 0
    assert sum(float(p.grad.abs().sum()) for p in network.correction.parameters()) > 0
