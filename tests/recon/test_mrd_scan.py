from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.errors import ScanError
from recon.io.files import read_scan, write_scan
from recon.phantom import simulate
from recon.planes import ATTRIBUTE, ImageStack
from recon.scan import Scan
from tests.mrd_files import CENTRE, OBLIQUE, fourier, header, lines, noise, readout, write

SIEMENS = Path(__file__).parents[3] / "shared/data/scans/siemens_ismrmrd_r3.h5"
GENERATOR = "/usr/bin/ismrmrd_generate_cartesian_shepp_logan"
RECONSTRUCTION = "/usr/bin/ismrmrd_recon_cartesian_2d"


def stack_of(scan: Scan) -> ImageStack:
    return ImageStack.from_text(str(scan.attributes[ATTRIBUTE]))


def images_of(scan: Scan) -> np.ndarray:
    shifted = np.fft.ifftshift(scan.kspace, (-2, -1))
    return np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), (-2, -1))


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(ScanError) as caught:
        read_scan(path, **options)  # type: ignore[arg-type]
    return caught.value.code


def test_lines_lie_where_their_numbers_say(tmp_path: Path) -> None:
    kspace = noise(3, 8, 6)
    chosen = [0, 2, 3, 5]
    path = write(tmp_path / "a.h5", header((8, 6, 1)), list(lines(kspace, chosen)))
    scan = read_scan(path)
    assert scan.mask.all(axis=0).tolist() == [True, False, True, True, False, True]
    np.testing.assert_array_equal(scan.kspace[0][..., chosen], kspace[..., chosen])


def test_the_centre_of_the_limits_shifts_partial_fourier_lines(tmp_path: Path) -> None:
    kspace = noise(1, 8, 5)
    path = write(tmp_path / "a.h5", header((8, 8, 1), centre=(2, 0)), list(lines(kspace)))
    scan = read_scan(path)
    assert scan.mask[0].tolist() == [False, False, True, True, True, True, True, False]
    np.testing.assert_array_equal(scan.kspace[0, :, :, 2:7], kspace)


@pytest.mark.parametrize(("wide", "narrow"), [(16, 8), (16, 7), (14, 7), (15, 9)])
def test_oversampling_is_cut_off_round_the_centre(wide: int, narrow: int, tmp_path: Path) -> None:
    image = noise(2, wide, 6)
    xml = header((wide, 6, 1), (narrow, 6, 1))
    scan = read_scan(write(tmp_path / "a.h5", xml, list(lines(fourier(image, (1, 2))))))
    start = wide // 2 - narrow // 2
    expected = image[:, start : start + narrow]
    np.testing.assert_allclose(images_of(scan)[0], expected, atol=1e-5)
    assert scan.geometry.recon_shape == (narrow, 6)


def test_an_asymmetric_echo_keeps_its_holes_and_its_place(tmp_path: Path) -> None:
    kspace = noise(1, 16, 4)
    short = [readout(kspace[:, 5:, line], line, center_sample=3) for line in range(4)]
    scan = read_scan(write(tmp_path / "a.h5", header((16, 4, 1), (8, 4, 1)), short))
    assert scan.mask[:, 0].tolist() == [False] * 5 + [True] * 11
    np.testing.assert_array_equal(scan.kspace[0, :, 5:], kspace[:, 5:])
    assert scan.geometry.recon_shape == (8, 4)


def test_oversampling_that_the_vendor_removed_is_not_removed_again(tmp_path: Path) -> None:
    kspace = noise(1, 8, 4)
    path = write(
        tmp_path / "a.h5", header((16, 4, 1), (8, 4, 1)), list(lines(kspace, center_sample=8))
    )
    np.testing.assert_array_equal(read_scan(path).kspace[0], kspace)


def test_reversed_readouts_are_turned(tmp_path: Path) -> None:
    kspace = noise(1, 8, 4)
    turned = [*lines(kspace, [0, 1, 2]), readout(kspace[:, ::-1, 3], 3, flags=(22,))]
    scan = read_scan(write(tmp_path / "a.h5", header((8, 4, 1)), turned))
    np.testing.assert_array_equal(scan.kspace[0], kspace)


@pytest.mark.parametrize("flag", [19, 23, 24, 26, 27, 28, 29, 30, 31])
def test_readouts_that_are_not_imaging_stay_out_of_the_image(flag: int, tmp_path: Path) -> None:
    kspace = noise(1, 8, 4)
    other = readout(100 * noise(1, 8, seed=1), 2, flags=(flag,))
    scan = read_scan(write(tmp_path / "a.h5", header((8, 4, 1)), [other, *lines(kspace)]))
    np.testing.assert_array_equal(scan.kspace[0], kspace)


@pytest.mark.parametrize(("mode", "acquired"), [("embedded", 6), ("separate", 3)])
def test_calibration_counts_only_when_embedded(mode: str, acquired: int, tmp_path: Path) -> None:
    parallel = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{mode}</calibrationMode></parallelImaging>"
    )
    kspace = noise(1, 8, 6)
    both = [*lines(kspace, [0, 2, 4]), *lines(kspace, [1, 3, 5], flags=(20,))]
    scan = read_scan(write(tmp_path / "a.h5", header((8, 6, 1), parallel=parallel), both))
    assert scan.mask[0].sum() == acquired


def test_noise_readouts_get_the_variance_of_the_imaging_ones(tmp_path: Path) -> None:
    system = (
        "<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0.8"
        "</relativeReceiverNoiseBandwidth></acquisitionSystemInformation>"
    )
    alone = noise(2, 8, seed=1)
    own = readout(alone, 0, flags=(19,), sample_time_us=20.0)
    twice = [*lines(noise(2, 8, 4), average=0), *lines(noise(2, 8, 4, seed=2), average=1)]
    path = write(tmp_path / "a.h5", header((8, 4, 1), extra=system), [own, *twice])
    scan = read_scan(path)
    # Four times the bandwidth of the noise scan, which the receiver had cut to 80 %; two averages.
    np.testing.assert_allclose(scan.noise_samples, alone * np.sqrt(4 / 0.8 / 2), rtol=1e-5)


def test_averages_are_averaged(tmp_path: Path) -> None:
    first, second = noise(1, 8, 4), noise(1, 8, 4, seed=1)
    path = write(
        tmp_path / "a.h5",
        header((8, 4, 1)),
        [*lines(first, average=0), *lines(second, average=1)],
    )
    np.testing.assert_allclose(read_scan(path).kspace[0], (first + second) / 2, rtol=1e-6)


def test_every_counter_makes_an_image_of_its_own_slices_fastest(tmp_path: Path) -> None:
    parts, expected = [], []
    for seed, counters in enumerate(
        {"repetition": r, "contrast": c, "slice": s}
        for r in range(2)
        for c in range(2)
        for s in range(3)
    ):
        kspace = noise(1, 6, 4, seed=seed)
        parts.append(list(lines(kspace, **counters)))
        expected.append(kspace)
    shuffled = [part for k in (7, 2, 11, 0, 5, 3, 9, 1, 4, 10, 6, 8) for part in parts[k]]
    path = write(tmp_path / "a.h5", header((6, 4, 1)), shuffled)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.kspace, np.stack(expected))
    labels = stack_of(scan).planes[7].labels
    assert (labels["repetition"], labels["contrast"], labels["slice"]) == (1, 0, 1)
    one = read_scan(path, select={"repetition": 1, "contrast": 0})
    np.testing.assert_array_equal(one.kspace, np.stack(expected[6:9]))


def test_interleaved_images_must_be_chosen(tmp_path: Path) -> None:
    kspace = noise(1, 8, 6)
    both = [*lines(kspace, [0, 2, 4], repetition=0), *lines(kspace, [1, 3, 5], repetition=1)]
    path = write(tmp_path / "a.h5", header((8, 6, 1)), both)
    assert refusal(path) == "patterns-differ"
    assert read_scan(path, select={"repetition": 1}).mask[0].tolist() == [False, True] * 3
    assert refusal(path, select={"repetition": 2}) == "no-readouts"
    assert refusal(path, select={"coil": 2}) == "selection"


@pytest.mark.parametrize("partitions", [4, 5])
def test_full_partitions_become_slices(partitions: int, tmp_path: Path) -> None:
    volume = noise(2, 6, 5, partitions)
    kspace = fourier(volume, (1, 2, 3))
    acquired = [readout(kspace[:, :, y, z], y, z) for y in range(5) for z in range(partitions)]
    scan = read_scan(write(tmp_path / "a.h5", header((6, 5, partitions)), acquired))
    np.testing.assert_allclose(images_of(scan), np.moveaxis(volume, -1, 0), atol=1e-5)
    plane = stack_of(scan).planes[partitions // 2]
    np.testing.assert_allclose(plane.position, CENTRE, rtol=1e-6)
    step = np.subtract(stack_of(scan).planes[1].position, stack_of(scan).planes[0].position)
    np.testing.assert_allclose(step, 4.0 * np.array(OBLIQUE[2]), atol=1e-5)


def test_scattered_partitions_become_slices_along_the_readout(tmp_path: Path) -> None:
    volume = noise(1, 4, 6, 5)
    kspace = fourier(volume, (1, 2, 3))
    places = [(0, 0), (1, 3), (2, 2), (3, 2), (4, 1), (5, 4)]
    acquired = [readout(kspace[:, :, y, z], y, z) for y, z in places]
    scan = read_scan(write(tmp_path / "a.h5", header((4, 6, 5)), acquired))
    assert sorted(map(tuple, np.argwhere(scan.mask).tolist())) == places
    planes = np.moveaxis(fourier(volume, (2, 3)), 1, 0)
    np.testing.assert_allclose(scan.kspace, planes * scan.mask, atol=1e-5)
    stack = stack_of(scan)
    assert stack.voxel_mm == (2.0, 4.0, 1.5)
    np.testing.assert_allclose(stack.planes[2].position, CENTRE, rtol=1e-6)
    np.testing.assert_allclose(stack.planes[2].read_dir, OBLIQUE[1], atol=1e-6)
    step = np.subtract(stack.planes[1].position, stack.planes[0].position)
    np.testing.assert_allclose(step, 1.5 * np.array(OBLIQUE[0]), atol=1e-5)


def test_a_scan_keeps_its_planes_through_a_file(tmp_path: Path) -> None:
    scan = read_scan(
        write(tmp_path / "a.h5", header((8, 6, 1)), list(lines(noise(1, 8, 6)))),
    )
    write_scan(tmp_path / "b.h5", scan)
    assert stack_of(read_scan(tmp_path / "b.h5")) == stack_of(scan)


def test_the_genuine_siemens_file_is_read() -> None:
    if not SIEMENS.is_file():
        pytest.skip("the shared Siemens file is not here")
    scan = read_scan(SIEMENS)
    assert scan.kspace.shape == (1, 14, 192, 144)
    assert np.flatnonzero(scan.mask[0]).tolist()[:6] == [18, 21, 24, 27, 30, 33]
    assert scan.mask[0, 48:97].all()
    assert scan.noise_samples is not None
    edge = scan.kspace[0][:, :6][..., scan.mask[0]]
    ratio = np.abs(edge).std() / np.abs(scan.noise_samples).std()
    assert 1 < ratio < 4  # without the bandwidth's factor of 3.2 it is out of this range


@pytest.mark.parametrize("options", [["-O", "2"], ["-O", "2", "-C"]])
def test_debians_reference_reconstruction_agrees(options: list[str], tmp_path: Path) -> None:
    if not Path(GENERATOR).exists() or not Path(RECONSTRUCTION).exists():
        pytest.skip("Debian's ismrmrd-tools are not installed")
    path = tmp_path / "phantom.h5"
    subprocess.run(
        [GENERATOR, "-m", "64", "-c", "4", "-n", "0.001", "-o", str(path), *options],
        check=True,
        capture_output=True,
        timeout=60,
    )
    images = images_of(read_scan(path))[0]
    if "-C" in options:  # the reference program stumbles over noise readouts
        assert read_scan(path).noise_samples is not None
        return
    subprocess.run([RECONSTRUCTION, str(path)], check=True, capture_output=True, timeout=60)
    with h5py.File(path) as file:
        reference = file["dataset/cpp/data"][0, 0, 0]
    ours = np.sqrt((np.abs(images) ** 2).sum(axis=0)).T
    scale = (ours * reference).sum() / (ours**2).sum()
    assert np.abs(scale * ours - reference).max() < 1e-3 * reference.max()


@pytest.mark.parametrize("center_sample", [0, 5, 64])
def test_a_header_left_behind_by_removed_oversampling_is_seen_through(
    center_sample: int, tmp_path: Path
) -> None:
    kspace = simulate(1, 3, 64, 48, 50, 0)[0].kspace[0]
    readouts = list(lines(kspace, center_sample=center_sample))
    scan = read_scan(write(tmp_path / "a.h5", header((128, 48, 1), (64, 48, 1)), readouts))
    np.testing.assert_array_equal(scan.kspace[0], kspace)


def test_half_an_echo_of_as_many_samples_is_left_half(tmp_path: Path) -> None:
    kspace = simulate(1, 3, 128, 48, 50, 0)[0].kspace[0]
    readouts = list(lines(kspace[:, 64:], center_sample=0))
    scan = read_scan(write(tmp_path / "a.h5", header((128, 48, 1), (64, 48, 1)), readouts))
    assert scan.mask[:, 0].tolist() == [False] * 64 + [True] * 64
    np.testing.assert_array_equal(scan.kspace[0, :, 64:], kspace[:, 64:])


def test_a_centre_that_the_samples_contradict_is_refused(tmp_path: Path) -> None:
    kspace = simulate(1, 3, 64, 48, 50, 0)[0].kspace[0]
    shifted = [readout(kspace[:, :40, line], line, center_sample=8) for line in range(48)]
    path = write(tmp_path / "a.h5", header((64, 48, 1)), shifted)
    with pytest.raises(ScanError, match="center_sample"):
        read_scan(path)
    lifted = write(tmp_path / "b.h5", header((64, 96, 1), centre=(0, 0)), list(lines(kspace)))
    assert refusal(lifted) == "kspace-not-centred"  # lines counted from the wrong centre
    assert read_scan(lifted, fftshift=False).mask.sum() == 64 * 48
