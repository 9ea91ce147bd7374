import numpy as np
import pytest
import sigpy.mri.app as sigpy_mri
import torch
from numpy.typing import NDArray

from recon.espirit import EigenMaps, eigen_maps
from recon.phantom import receiver_maps, simulate
from recon.receivers import noise_model
from tests.contracts import complex_normal
from tests.problems import folded_scan

SHAPE = (64, 60)
COILS = 6


def kspace_of(image: NDArray, maps: NDArray) -> NDArray[np.complex64]:
    """Noiseless multi-coil k-space (coils, rows, columns)."""
    shifted = np.fft.ifftshift(maps * image, axes=(-2, -1))
    kspace = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=(-2, -1))
    return kspace.astype(np.complex64)


def central(kspace: NDArray, rows: int, columns: int) -> torch.Tensor:
    top, left = kspace.shape[1] // 2 - rows // 2, kspace.shape[2] // 2 - columns // 2
    return torch.from_numpy(kspace[:, top : top + rows, left : left + columns].copy())


@pytest.fixture(scope="module")
def head() -> tuple[NDArray, NDArray, NDArray]:
    """K-space, image and coil maps of a phantom."""
    image, maps = simulate(1, 1, *SHAPE)[1][0], receiver_maps(COILS, *SHAPE)
    return kspace_of(image, maps), image, maps


@pytest.mark.parametrize("side", [16, 19])
def test_maps_are_those_of_sigpy(head: tuple[NDArray, NDArray, NDArray], side: int) -> None:
    kspace, image, _ = head
    app = sigpy_mri.EspiritCalib(
        kspace, calib_width=side, crop=0, show_pbar=False, output_eigenvalue=True
    )
    theirs, eigenvalues = app.run()
    ours = eigen_maps(central(kspace, side, side), SHAPE)
    agreement = np.abs((ours.maps[0].numpy().conj() * theirs).sum(axis=0))
    inside = np.abs(image) > 0
    assert agreement[inside].min() > 0.999
    np.testing.assert_allclose(
        ours.eigenvalues[0].numpy()[inside], eigenvalues[0][inside], atol=2e-3
    )


def test_longer_lines_give_better_maps(head: tuple[NDArray, NDArray, NDArray]) -> None:
    """What a rectangle is for: lines through the centre are known along all of their length."""
    kspace, image, maps = head
    truth = maps / np.linalg.norm(maps, axis=0)
    inside = np.abs(image) > 0

    def error(found: EigenMaps) -> float:
        agreement = np.abs((found.maps[0].numpy().conj() * truth).sum(axis=0))[inside]
        return float(np.sqrt(np.mean(1 - np.minimum(agreement, 1) ** 2)))

    square = error(eigen_maps(central(kspace, 12, 12), SHAPE))
    rectangle = error(eigen_maps(central(kspace, 32, 12), SHAPE))
    assert rectangle < 0.7 * square
    assert rectangle < 0.03


def test_maps_are_unit_vectors_whose_phase_the_strongest_coil_sets(
    head: tuple[NDArray, NDArray, NDArray],
) -> None:
    centre = central(head[0], 20, 20)
    found = eigen_maps(centre, SHAPE, sets=3)
    assert found.maps.shape == (3, COILS, *SHAPE)
    assert found.eigenvalues.shape == (3, *SHAPE)
    gram = torch.einsum("jcrk,icrk->rkji", found.maps.conj(), found.maps)
    torch.testing.assert_close(gram, torch.eye(3).to(gram).expand_as(gram), atol=1e-4, rtol=0)
    assert bool((found.eigenvalues.diff(dim=0) <= 1e-5).all())
    turned = eigen_maps(centre * np.exp(0.7j), SHAPE, sets=3)
    torch.testing.assert_close(turned.maps, found.maps, atol=2e-3, rtol=0)
    # Coils that are mixed by a unitary matrix have maps mixed alike: no coil is special.
    unitary = torch.linalg.qr(complex_normal((COILS, COILS), 1))[0]
    mixed = eigen_maps(torch.einsum("vc,crk->vrk", unitary, centre), SHAPE)
    expected = torch.einsum("vc,crk->vrk", unitary, found.maps[0])
    inside = torch.from_numpy(np.abs(head[1]) > 0)
    one_phase = (expected.conj() * mixed.maps[0])[:, inside].sum()
    turned_back = mixed.maps[0] * (one_phase / one_phase.abs()).conj()
    torch.testing.assert_close(turned_back[:, inside], expected[:, inside], atol=5e-3, rtol=0)


def test_a_folded_voxel_needs_two_sets_and_others_one() -> None:
    folded = folded_scan()
    kspace = folded.scan.kspace[0]
    model, _ = noise_model(folded.scan)
    white = np.einsum("vc,crk->vrk", model.whitening, kspace).astype(np.complex64)
    found = eigen_maps(central(white, 32, 24), folded.scan.image_shape, sets=3)
    first, second, third = found.eigenvalues.numpy()
    there = np.abs(folded.places) > 0
    once, twice = there.sum(axis=0) == 1, there.all(axis=0)
    assert np.count_nonzero(twice) > 100
    assert first[once | twice].min() > 0.95
    assert np.quantile(second[twice], 0.05) > 0.85
    # The kernel sees no finer than a sixth of the field of view, across its edges too.
    middle = np.s_[12:-12, 12:-12]
    assert second[middle].max() < 0.6
    assert third[once | twice].max() < 0.6
    # Both sensitivities lie in the plane that the two maps of the voxel span.
    maps = np.einsum("vc,jcrk->jvrk", model.whitening, folded.maps)
    maps = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    spanned = np.einsum("icrk,jcrk->ijrk", found.maps[:2].numpy().conj(), maps)
    assert np.quantile(np.linalg.norm(spanned, axis=0)[:, twice], 0.02) > 0.99
