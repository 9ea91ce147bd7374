"""From folders of all kinds to training images: what is taken, kept, hidden and held out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import write_scan
from recon.phantom import receiver_maps, simulate
from recon.scan import Geometry, Scan
from recon.undersampling import undersample, undersampling_mask
from service.images.volumes import ImageSettings
from service.training.images import Prepared, Progress, prepare_images, split_patients
from tests.service.image_sources import blob, write_dicom, write_nifti

ROOT = Path(__file__).parents[2]
VOXELS = blob().transpose(2, 1, 0)  # to the left, posterior, superior


def prepared(*sources: Path, cache: Path, **changes: object) -> Prepared:
    events = list(prepare_images(sources, cache, ImageSettings(**changes)))
    assert all(isinstance(event, Progress) for event in events[:-1])
    shares = [event.share for event in events[:-1]]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    assert isinstance(events[-1], Prepared)
    return events[-1]


def images(file: Path) -> NDArray[np.generic]:
    with h5py.File(file) as content:
        return content["images"][()]


def codes(done: Prepared) -> dict[str, str]:
    return {path.name: each.code for each in done.refused for path in each.sources}


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written, or written again."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


def write_kspace(path: Path, **changes: object) -> tuple[Scan, NDArray[np.complex64]]:
    scan, truth = simulate(slices=1, coils=4, rows=96, columns=80, snr=60)
    scan = replace(scan, **changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_scan(path, scan)
    return scan, truth


HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<subjectInformation><patientName>DOE^JANE</patientName><patientID>MRN12345</patientID>
</subjectInformation><encoding><reconSpace><matrixSize><x>72</x><y>64</y><z>1</z></matrixSize>
<fieldOfView_mm><x>64.8</x><y>70.4</y><z>5</z></fieldOfView_mm></reconSpace></encoding>
</ismrmrdHeader>"""


def likeness(image: NDArray[np.generic], truth: NDArray[np.generic]) -> float:
    """Correlation, whatever the scale and the global phase."""
    return float(abs(np.vdot(image, truth)) / np.linalg.norm(image) / np.linalg.norm(truth))


def test_kspace_becomes_its_complex_image(tmp_path):
    _, truth = write_kspace(tmp_path / "in" / "a.h5")
    done = prepared(tmp_path / "in", cache=tmp_path / "cache")
    image = images(done.files[0])
    assert image.dtype == np.complex64
    assert np.percentile(np.abs(image), 99) == pytest.approx(1, rel=1e-5)
    assert likeness(np.abs(image), np.abs(truth)) > 0.995
    # The maps' reference coil decides the phase: smooth, and the same as that coil's.
    inside = np.abs(truth[0]) > 0.3
    turn = np.exp(1j * np.angle(image[0] * truth[0].conj()))
    assert np.abs(np.diff(np.angle(turn[48][inside[48]]))).max() < 0.5


def test_maps_that_come_with_the_scan_give_the_phase_of_the_truth(tmp_path):
    scan, truth = simulate(slices=1, coils=4, rows=96, columns=80, snr=60)
    write_scan(tmp_path / "a.h5", replace(scan, coil_maps=receiver_maps(4, 96, 80)[np.newaxis]))
    done = prepared(tmp_path / "a.h5", cache=tmp_path / "cache")
    assert likeness(images(done.files[0]), truth) > 0.99


def test_the_header_crops_and_tells_the_pixels(tmp_path):
    write_kspace(tmp_path / "full.h5")
    write_kspace(tmp_path / "cropped.h5", header=HEADER, geometry=Geometry())
    done = prepared(tmp_path / "full.h5", tmp_path / "cropped.h5", cache=tmp_path / "cache")
    full, cropped = (np.abs(images(file)[0]) for file in done.files)
    # 0.9 x 1.1 mm pixels in the header: 64 columns become 78 over the same 70.4 mm.
    assert cropped.shape == (72, 78)
    assert done.taken[1].pixel_mm == pytest.approx((0.9, 70.4 / 78))
    assert done.taken[0].pixel_mm is None
    centres = (np.arange(78) + 0.5) * 64 / 78 - 0.5
    expected = [np.interp(centres, np.arange(64), row) for row in full[12:84, 8:72]]
    assert likeness(cropped, np.array(expected)) > 0.99


def test_undersampled_kspace_is_refused(tmp_path):
    scan, _ = write_kspace(tmp_path / "a.h5")
    mask = undersampling_mask((96, 80), "equispaced", 2, 0.3, 0)
    write_scan(tmp_path / "a.h5", undersample(scan, mask))
    done = prepared(tmp_path / "a.h5", cache=tmp_path / "cache")
    assert codes(done) == {"a.h5": "undersampled"}
    assert not done.files


@pytest.mark.parametrize(
    ("kept", "taken"), [(slice(8, 73), True), (slice(0, 60), False), (slice(30, 50), False)]
)
def test_a_padded_edge_is_no_undersampling_but_half_of_kspace_is(tmp_path, kept, taken):
    scan, _ = write_kspace(tmp_path / "a.h5")
    mask = np.zeros((96, 80), np.bool_)
    mask[:, kept] = True
    write_scan(tmp_path / "a.h5", undersample(scan, mask))
    done = prepared(tmp_path / "a.h5", cache=tmp_path / "cache")
    assert bool(done.files) is taken


def archive(folder: Path) -> Path:
    """One of each kind."""
    write_nifti(folder / "one.nii.gz", VOXELS)
    write_nifti(folder / "two.nii", VOXELS[::-1])
    write_kspace(folder / "scan.h5")
    for k, each in enumerate((1000 * blob(4)).astype(np.uint16)):
        write_dicom(folder / "dicom" / f"IM{k}", each, ImagePositionPatient=[0, 0, 3 * k])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_every_kind_is_found_and_the_rest_is_listed(tmp_path):
    done = prepared(archive(tmp_path / "in"), cache=tmp_path / "cache")
    assert sorted(each.source.name for each in done.taken) == [
        "IM0", "one.nii.gz", "scan.h5", "two.nii",
    ]  # fmt: skip
    assert codes(done) == {"notes.txt": "other-file"}
    for each in done.taken:
        assert len(images(each.file)) == each.slices == len(each.patients)
        with h5py.File(each.file) as content:
            stored = tuple(name.decode() for name in content["patient"][()])
        assert stored == each.patients


def test_a_second_preparation_writes_nothing(tmp_path):
    folder = archive(tmp_path / "in")
    first = prepared(folder, cache=tmp_path / "cache")
    before = state(tmp_path / "cache")
    events = list(prepare_images([folder], tmp_path / "cache"))
    assert events[-1] == first
    assert [event.detail for event in events[:-1]] == ["looking for images"]
    assert state(tmp_path / "cache") == before


def test_what_changed_is_converted_anew_and_nothing_else(tmp_path):
    folder = archive(tmp_path / "in")
    first = prepared(folder, cache=tmp_path / "cache")
    before = state(tmp_path / "cache")
    write_nifti(folder / "two.nii", 2 * VOXELS)
    write_dicom(folder / "dicom" / "other", (1000 * blob(1)[0]).astype(np.uint16), EchoTime=3)
    second = prepared(folder, cache=tmp_path / "cache")
    assert len(second.files) == 5
    assert len(set(first.files) & set(second.files)) == 3
    after = state(tmp_path / "cache")
    assert before.items() <= after.items()


def test_other_settings_make_other_images(tmp_path):
    path = write_nifti(tmp_path / "a.nii", blob(64, 72, 80).transpose(2, 1, 0), (1, 1, 1))
    axial = prepared(path, cache=tmp_path / "cache")
    coronal = prepared(path, cache=tmp_path / "cache", plane="coronal")
    assert images(axial.files[0]).shape[1:] == (72, 80)
    assert images(coronal.files[0]).shape[1:] == (64, 80)


def test_a_killed_preparation_goes_on_where_it_stopped(tmp_path):
    for k in range(25):
        write_nifti(tmp_path / "in" / f"{k:02}.nii", blob(seed=k).transpose(2, 1, 0))
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from service.training.images import prepare_images\n"
        "for event in prepare_images([Path(sys.argv[1])], Path(sys.argv[2])): pass\n"
    )
    cache = tmp_path / "cache"
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "in"), str(cache)], cwd=ROOT
    )
    while len(list(cache.glob("*.h5"))) < 3:
        assert run.poll() is None, "it ended too early to be killed"
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    entries = {name: each for name, each in state(cache).items() if not name.startswith(".")}
    assert len([name for name in entries if name.endswith(".h5")]) < 25
    done = prepared(tmp_path / "in", cache=cache)
    assert len(done.files) == len(set(done.files)) == 25
    kept = {name: each for name, each in state(cache).items() if name in entries}
    # One image file may have been written without its record; it alone is made again.
    assert len(kept.items() - entries.items()) <= 1
    np.testing.assert_allclose(
        images(done.files[7]), blob(seed=7) / np.percentile(blob(seed=7), 99), rtol=2e-3
    )


def test_an_image_file_missing_from_the_cache_is_made_again(tmp_path):
    path = write_nifti(tmp_path / "a.nii", VOXELS)
    done = prepared(path, cache=tmp_path / "cache")
    done.files[0].unlink()
    assert prepared(path, cache=tmp_path / "cache") == done
    assert done.files[0].is_file()


def test_nothing_in_the_cache_names_a_patient(tmp_path):
    folder = tmp_path / "DOE_JANE"
    write_nifti(folder / "MRN12345_DOE.nii.gz", VOXELS)
    write_kspace(folder / "jane.h5", header=HEADER, geometry=Geometry())
    for k, each in enumerate((1000 * blob(4)).astype(np.uint16)):
        write_dicom(folder / f"DOE{k}", each, ImagePositionPatient=[0, 0, 3 * k])
    write_dicom(folder / "ct", each, Modality="CT", SeriesDescription="DOE")
    write_nifti(folder / "DOE_mask.nii", np.round(VOXELS))
    done = prepared(folder, cache=tmp_path / "cache")
    assert len(done.taken) == 3
    assert len(done.refused) == 2
    for path in (tmp_path / "cache").iterdir():
        content = path.name.encode() + path.read_bytes()
        for secret in (b"DOE", b"JANE", b"jane", b"MRN12345", b"1.2.3", str(tmp_path).encode()):
            assert secret not in content, path
    # k-space and DICOM name the same person, and the name of the key's owner alone tells that.
    assert len({each.patients[0] for each in done.taken}) == 2
    other = prepared(folder, cache=tmp_path / "other")
    assert not {each.patients for each in done.taken} & {each.patients for each in other.taken}


def test_links_lead_nowhere_else_and_pipes_are_not_opened(tmp_path):
    outside = write_nifti(tmp_path / "outside" / "a.nii", VOXELS)
    folder = tmp_path / "in"
    inside = write_nifti(folder / "store" / "b.nii", VOXELS)
    (folder / "store2").mkdir()
    (folder / "escape.nii").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.nii").symlink_to(folder / "nothing")
    (folder / "store2" / "link.nii").symlink_to(inside)
    os.mkfifo(folder / "pipe.nii")
    write_nifti(folder / ".hidden" / "c.nii", VOXELS)
    done = prepared(folder, cache=tmp_path / "cache")
    assert [each.source.name for each in done.taken] == ["b.nii", "link.nii"]
    assert codes(done) == {
        "escape.nii": "link",
        "folder": "link",
        "loop": "link",
        "dangling.nii": "link",
        "pipe.nii": "not-a-file",
    }


def test_image_files_are_used_where_they_are(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["images"] = (255 * blob(3)).astype(np.uint8)
        file["patient"] = ["p1", "p1", "p2"]
    with h5py.File(folder / "b.h5", "w") as file:
        file["images"] = blob(2).astype(np.complex64)
    before = state(folder)
    for _ in range(2):
        done = prepared(folder, cache=tmp_path / "cache")
        assert done.files == (folder / "a.h5", folder / "b.h5")
        assert done.patients == {
            folder / "a.h5": ("p1", "p1", "p2"),
            folder / "b.h5": ("b", "b"),
        }
    assert state(folder) == before
    assert not list((tmp_path / "cache").glob("*.h5"))


def test_image_files_with_values_that_are_not_finite_stay_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.full((2, 64, 64), np.nan, np.float32)
    for _ in range(2):
        assert codes(prepared(tmp_path / "a.h5", cache=tmp_path / "cache")) == {
            "a.h5": "not-finite"
        }


def test_a_cache_inside_the_source_is_not_a_source(tmp_path):
    folder = tmp_path / "in"
    write_nifti(folder / "a.nii", VOXELS)
    for _ in range(2):
        assert len(prepared(folder, cache=folder / "cache").files) == 1


def test_unfit_volumes_of_a_series_are_left_out_with_a_note(tmp_path):
    series = np.stack([VOXELS, 0 * VOXELS, VOXELS], axis=3)
    done = prepared(write_nifti(tmp_path / "a.nii", series), cache=tmp_path / "cache")
    assert done.taken[0].slices == 8
    assert done.taken[0].notes[0].startswith("1 of 3 volumes left out")


def test_the_same_subject_of_a_bids_tree_is_one_patient(tmp_path):
    for name in ("sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T2w.nii", "sub-02/a.nii"):
        write_nifti(tmp_path / "in" / name, VOXELS)
    done = prepared(tmp_path / "in", cache=tmp_path / "cache")
    first, second, third = (each.patients[0] for each in done.taken)
    assert first == second != third
    assert not done.warnings


def test_folders_may_tell_patients_apart_and_a_doubt_is_voiced(tmp_path):
    for name in ("ann/T1.nii", "ann/T2.nii", "bob/T1.nii"):
        write_nifti(tmp_path / "in" / name, VOXELS)
    named = prepared(tmp_path / "in", cache=tmp_path / "cache")
    assert [each.patients[0] for each in named.taken].count(named.taken[0].patients[0]) == 2
    assert "folder" in named.warnings[0]
    by_folder = prepared(tmp_path / "in", cache=tmp_path / "cache", patient_from="folder")
    first, second, third = (each.patients[0] for each in by_folder.taken)
    assert first == second != third
    assert not by_folder.warnings


def test_a_source_that_does_not_exist_stops_the_preparation(tmp_path):
    with pytest.raises(ScanError) as caught:
        prepared(tmp_path / "nothing", cache=tmp_path / "cache")
    assert caught.value.code == "no-source"


PATIENTS = {
    Path(f"{file}.h5"): tuple(f"p{(file * 3 + k) % 20}" for k in range(4)) for file in range(15)
}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_patient_is_on_both_sides(share, seed):
    split = split_patients(PATIENTS, share, seed)
    held_out = {name for _, name in split.validation}
    assert not held_out & {name for _, name in split.training}
    assert len(held_out) == min(max(1, round(share * 20)), 19)
    everything = {(file, name) for file, names in PATIENTS.items() for name in names}
    assert split.training | split.validation == everything


def test_the_split_depends_on_names_and_seed_alone():
    chosen = {name for _, name in split_patients(PATIENTS, 0.3, 5).validation}
    moved = {Path("/x") / file: names[::-1] for file, names in reversed(PATIENTS.items())}
    assert {name for _, name in split_patients(moved, 0.3, 5).validation} == chosen
    assert {name for _, name in split_patients(PATIENTS, 0.3, 6).validation} != chosen


@pytest.mark.parametrize(
    ("patients", "share", "code"),
    [
        ({Path("a"): ("p", "p")}, 0.5, "one-patient"),
        ({}, 0.5, "one-patient"),
        (PATIENTS, 0.0, "held-out-share"),
        (PATIENTS, 1.0, "held-out-share"),
    ],
)
def test_a_split_that_cannot_be_is_refused(patients, share, code):
    with pytest.raises(ScanError) as caught:
        split_patients(patients, share, 0)
    assert caught.value.code == code
