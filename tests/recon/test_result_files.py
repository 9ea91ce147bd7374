"""Results on disk: round trips, the layout that others read, damage."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import read_result, read_result_mask, write_result, write_scan
from recon.posterior import SelfCheck, SlicePosterior
from recon.scan import Scan, centre_crop
from recon.verdict import Cause, Evidence, Trust, Verdict
from tests.recon.scan_files import HEADER, assert_same, noise

VERDICTS = (
    Verdict(Trust.TRUSTED, "Nothing speaks against it.", None, 0.5),
    Verdict(Trust.DOUBTFUL, "The noise: loud.", Cause.NOISE, 0.125),
    Verdict(Trust.REFUSED, "No signal.", Cause.SIGNAL, 0.0),
)


def posterior(index: int, rows: int, columns: int, *, samples: int = 3) -> SlicePosterior:
    rng = np.random.default_rng(index)

    def image() -> NDArray[np.float32]:
        return rng.normal(size=(rows, columns)).astype(np.float32)

    rhat = image()
    rhat[0, 0] = np.nan  # outside the object there is nothing to compare
    return SlicePosterior(
        index=index,
        mean=noise(rows, columns, seed=index),
        samples=noise(samples, rows, columns, seed=index),
        coarse=noise(rows, columns, seed=index + 1),
        magnitude_std=image(),
        phase_std=image(),
        quantiles=np.stack([image() for _ in range(4)]),
        mean_error=image(),
        rhat=rhat,
        effective_samples=image(),
        chi2_per_coil=rng.random(4).astype(np.float32),
        object_mask=image() > 0,
        sensitivity=image(),
        noise_std=0.1 + index,
        scale=math.pi,
        evaluations=100 + index,
        converged=index % 2 == 0,
        warnings=("first ü", "second") if index % 2 else (),
        self_check=SelfCheck(5, 1.02, 0.5, 0.875, 1.1, 77.5) if index % 2 else None,
        evidence=Evidence(*rng.random(8), surprise=tuple(rng.random(4))),
        verdict=VERDICTS[index % 3],
        classical=noise(rows, columns, seed=index + 2) if index % 3 == 1 else None,
    )


PROVENANCE = {"seed": 3, "model_id": "default", "acceleration": 4.5, "pseudonymised": True}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    indices=st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    crop=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_result_round_trip(
    indices: list[int], rows: int, columns: int, crop: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = tmp_path / "result.h5"
    posteriors = [posterior(index, rows, columns) for index in indices]
    write_result(path, posteriors, PROVENANCE, HEADER, crop)
    found, attributes = read_result(path)
    assert list(tmp_path.iterdir()) == [path]
    assert attributes.pop("created")
    expected = {"schema": "mri-posterior/result/1", "not_for_diagnostic_use": 1, **PROVENANCE}
    assert attributes == expected
    assert len(found) == len(posteriors)
    for left, right in zip(posteriors, found, strict=True):
        assert_same(left, right)


def test_result_layout_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"
    posteriors = [posterior(index, 8, 6) for index in (3, 4)]
    write_result(path, posteriors, {"created": "then"}, HEADER, (4, 5))
    with h5py.File(path) as file:
        mean = np.stack([p.mean for p in posteriors])
        np.testing.assert_array_equal(file["reconstruction"][()], np.abs(mean)[:, 2:6, 0:5])
        assert file["reconstruction"].dtype == np.float32
        assert file["reconstruction_std"].shape == (2, 4, 5)
        assert file["samples"].shape == (3, 2, 8, 6)
        assert file["samples"].chunks == (1, 1, 8, 6)
        assert file["samples"].shuffle
        assert file["samples"].compression == "gzip"
        assert file.attrs["created"] == "then"
        assert file["ismrmrd_header"][()].decode() == HEADER
        assert json.loads(file.attrs["warnings"]) == [
            {"slice": 3, "warning": "first ü"},
            {"slice": 3, "warning": "second"},
        ]


def test_mask_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"
    mask = np.eye(3, 4, dtype=bool)
    write_result(path, [posterior(1, 3, 4)], {}, mask=mask)
    np.testing.assert_array_equal(read_result_mask(path), mask)
    write_result(path, [posterior(1, 3, 4)], {})
    with pytest.raises(ScanError, match="no dataset 'mask'"):
        read_result_mask(path)


def test_crop_is_fastmris() -> None:
    transforms = pytest.importorskip("fastmri.data.transforms")
    torch = pytest.importorskip("torch")
    images = np.arange(2 * 7 * 8).reshape(2, 7, 8)
    for shape in ((3, 5), (4, 4), (7, 8), (1, 1)):
        expected = transforms.center_crop(torch.from_numpy(images), shape).numpy()
        np.testing.assert_array_equal(centre_crop(images, shape), expected)
    assert centre_crop(images, (9, 5)).shape == (2, 7, 5)


def test_long_warnings_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"
    original = replace(posterior(1, 3, 3), warnings=("w" * 50_000, "v" * 50_000))
    write_result(path, [original], PROVENANCE)
    assert read_result(path)[0][0].warnings == original.warnings


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"
    path.write_text("old")
    bad: Any = {"seed": object()}
    with pytest.raises(TypeError):
        write_result(path, [posterior(0, 3, 3)], bad)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_result_appears_whole(tmp_path: Path) -> None:
    """Who has the old file open keeps it: the new one is another file that took its name."""
    path = tmp_path / "result.h5"
    path.write_text("old")
    with path.open() as reader:
        write_result(path, [posterior(0, 3, 3)], {})
        assert reader.read() == "old"
    assert read_result(path)[0][0].index == 0


def test_misuse_is_a_value_error(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    one = posterior(0, 3, 3)
    with pytest.raises(ValueError, match="schema"):
        write_result(path, [one], {"schema": "mine"})
    for posteriors in ([], [one, one], [one, posterior(1, 4, 3)]):
        with pytest.raises(ValueError, match=r"posterior per slice|same shape"):
            write_result(path, posteriors, {})
    with pytest.raises(ValueError, match="kspace"):
        write_scan(path, Scan(noise(1, 1, 3, 3), np.ones((3, 3), bool)), {"kspace": np.ones(3)})
    assert not list(tmp_path.iterdir())


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.h5"

    def code(change: Any) -> str:
        write_result(path, [posterior(1, 3, 4)], PROVENANCE)
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(ScanError) as caught:
            read_result(path)
        return caught.value.code

    def put(name: str, value: Any) -> Any:
        def change(file: h5py.File) -> None:
            del file[name]
            file[name] = value

        return change

    assert code(lambda file: file.attrs.pop("schema")) == "not-a-result"
    assert code(lambda file: file.attrs.modify("schema", "other/2")) == "not-a-result"
    assert code(lambda file: file.attrs.modify("warnings", "[3]")) == "result-damaged"
    assert code(lambda file: file.pop("quality/rhat")) == "result-damaged"
    assert code(put("quality/rhat", np.ones((1, 4, 4), np.float32))) == "result-damaged"
    assert code(put("quality/rhat", np.ones((1, 3, 4), np.complex64))) == "result-damaged"
    assert code(put("mean", np.complex64(1))) == "result-damaged"
    assert code(put("samples", np.complex64(1))) == "result-damaged"
    assert code(put("quality/chi2_per_coil", np.float32(1))) == "result-damaged"
