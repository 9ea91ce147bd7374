from __future__ import annotations

import math

import torch

from models.validate import add_noise, denoising_psnr, psnr
from recon.prior import GaussianPrior


def test_psnr_is_that_of_the_squared_error_per_component() -> None:
    clean = torch.zeros(50, 50)
    assert math.isclose(psnr(clean + 0.1, clean), 20, abs_tol=1e-4)
    assert math.isclose(psnr(clean + 0.1 + 0.1j, clean.to(torch.complex64)), 20, abs_tol=1e-4)


def test_noise_depends_on_the_seed_alone() -> None:
    clean = torch.zeros(40, 30, dtype=torch.complex64)
    assert torch.equal(add_noise(clean, 0.2, 5), add_noise(clean, 0.2, 5))
    assert not torch.equal(add_noise(clean, 0.2, 5), add_noise(clean, 0.2, 6))
    # 1,200 components: relative standard error of the std is 2 %.
    assert abs(torch.view_as_real(add_noise(clean, 0.2, 5)).std() / 0.2 - 1) < 0.08


def test_denoising_a_white_gaussian_image_gains_what_theory_says() -> None:
    mean = torch.zeros(32, 32, dtype=torch.complex64)
    prior = GaussianPrior(mean, torch.full((32, 32), 0.25**2))
    scores = denoising_psnr(prior, [add_noise(mean, 0.25, 100 + i) for i in range(5)], (0.1, 0.5))
    for sigma, score in scores.items():
        error = 1 / (1 / 0.25**2 + 1 / sigma**2)
        # 10,240 components: the mean square has a standard error of 1.4 %, 0.06 dB.
        assert abs(score + 10 * math.log10(error)) < 0.25


def test_images_of_several_shapes_are_averaged_in_any_order() -> None:
    class Shrink:
        sigma_range = (0.0, 1.0)

        def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
            return noisy / 2

    shapes = [(8, 8), (8, 8), (6, 10), (8, 8)]
    images = [
        torch.full(shape, float(index), dtype=torch.complex64) for index, shape in enumerate(shapes)
    ]
    expected = [psnr(add_noise(image, 0.1, index) / 2, image) for index, image in enumerate(images)]
    scores = denoising_psnr(Shrink(), images, (0.1,))
    assert math.isclose(scores[0.1], sum(expected) / 4, rel_tol=1e-6)
