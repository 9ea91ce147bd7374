"""Regions of results from masks in files: drawn on the export, or on the arrays themselves."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from recon.errors import ScanError
from recon.io.files import write_result
from recon.planes import ATTRIBUTE
from service.commands.region import region
from service.exports.masks import read_array_mask, read_nifti_mask
from service.exports.nifti import write_nifti
from tests.service.marked_results import marked, posterior

SHAPE, KEEP = (9, 12), (6, 7)


@pytest.mark.parametrize("repetition", [0, 1])
def test_what_is_drawn_on_the_export_lies_in_the_same_voxels_of_the_result(
    tmp_path: Path, repetition: int
) -> None:
    images = marked(SHAPE, keep=KEEP, repetitions=2)
    exported = nibabel.load(write_nifti(images, tmp_path / "mean.nii.gz")[0])
    values = exported.get_fdata()[..., repetition]
    labels = np.where(values > 5, 2, 0) + np.where((values > 1.4) & (values < 1.5), 1, 0)
    file = tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), exported.affine), file)
    shape = (6, *SHAPE)
    mark = read_nifti_mask(file, images, shape, 2, repetition)
    rows, columns = (
        slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(SHAPE, KEEP, strict=True)
    )
    own = np.zeros(shape, np.bool_)
    own[:, rows, columns] = images.mean > 5
    own[:3] &= repetition == 0
    own[3:] &= repetition == 1
    np.testing.assert_array_equal(mark, own)
    both = read_nifti_mask(file, images, shape, None, repetition)
    assert both.sum() == (labels != 0).sum() > mark.sum() == 1
    with pytest.raises(ScanError, match="--volume"):
        read_nifti_mask(file, images, shape, 2)
    with pytest.raises(ScanError, match="0 to 1"):
        read_nifti_mask(file, images, shape, 2, 2)


def test_masks_on_other_grids_and_other_files_are_refused(tmp_path: Path) -> None:
    images, shape = marked(SHAPE, keep=KEEP), (3, *SHAPE)
    exported = nibabel.load(write_nifti(images, tmp_path / "mean.nii")[0])
    moved = exported.affine + 0.2 * np.eye(4)[:, [3, 3, 3, 0]]
    for array, affine in (
        (np.ones((*KEEP, 3), np.uint8), moved),
        (np.ones((*SHAPE, 3), np.uint8), exported.affine),
    ):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "other.nii")
        with pytest.raises(ScanError, match="without resampling"):
            read_nifti_mask(tmp_path / "other.nii", images, shape, None)
    (tmp_path / "text.nii").write_text("not an image")
    with pytest.raises(ScanError, match="not a NIfTI file"):
        read_nifti_mask(tmp_path / "text.nii", images, shape, None)
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(ScanError, match="not a NumPy array"):
        read_array_mask(tmp_path / "text.npy", shape, None)
    np.save(tmp_path / "flat.npy", np.ones(5))
    with pytest.raises(ScanError, match="for the same in every slice"):
        read_array_mask(tmp_path / "flat.npy", shape, None)


def test_the_command_compares_two_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    samples = random.uniform(1, 2, (5, 3, *SHAPE)).astype(np.float32)
    found = []
    for index in range(3):
        one = posterior(index, samples[0, index])
        object.__setattr__(one, "samples", samples[:, index].astype(np.complex64))
        found.append(one)
    text = marked(SHAPE).stack.to_text()
    result = tmp_path / "result.h5"
    write_result(result, found, {ATTRIBUTE: text, "slice_coherence": 1.5})
    labels = random.integers(0, 3, (3, *SHAPE))
    np.save(tmp_path / "labels.npy", labels)
    region(result, tmp_path / "labels.npy", label=1, reference_label=2, as_json=True)
    told = json.loads(capsys.readouterr().out)
    values = {k: samples[:, labels == k].mean(axis=1, dtype=float) for k in (1, 2)}
    difference = values[1] - values[2]
    assert told["region"]["mean"] == pytest.approx(values[1].mean())
    assert told["difference"]["std"] == pytest.approx(difference.std(ddof=1))
    assert told["difference"]["low"] < difference.mean() < told["difference"]["high"]
    assert told["joint"] is True
    write_result(tmp_path / "old.h5", found, {ATTRIBUTE: text})
    region(tmp_path / "old.h5", tmp_path / "labels.npy")
    assert "too narrow" in capsys.readouterr().out.replace("\n", " ")
