"""What a report says of a prior that was learned from an archive: compared, searched, told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recon.slice_draws import SPREADS, HeldOutLines
from service.training.archive_plan import ArchivePlan
from service.training.archive_report import document, recommendation, write_report
from service.training.expectation_maximization import Judged, Learned
from service.training.held_out_likelihood import Place, Predictions
from service.training.memorised import MemorySearch, Nearest, search
from service.training.undersampled_scans import LeftOut, ScanList
from tests.service.undersampled_archive import discs


def predictions(densities: Sequence[float], coverage: float = 0.9) -> Predictions:
    """One slice of each of as many subjects."""
    return {
        Place(f"subject-{k}", f"scan-{k}", 0): HeldOutLines((density,) * len(SPREADS), coverage, 2)
        for k, density in enumerate(densities)
    }


def learned(new: Sequence[float], shipped: Sequence[float], coverage: float = 0.9) -> Learned:
    first = Judged(0, "Gaussian", predictions([-9.0] * len(new)), None)
    best = Judged(1, "own-round-01", predictions(new, coverage), None)
    compared = Judged(0, "brain-small", predictions(shipped), None)
    left_out = (LeftOut(name="<b>", code="not-finite", reason="NaN & more"),)
    return Learned(ScanList(scans=(), left_out=()), (first, best), 1, compared, left_out)


def test_the_recommendation_is_what_the_lines_say() -> None:
    new = [-1.5, -1.52, -1.48]
    better = recommendation(learned(new, [-1.7, -1.74, -1.69]), None)
    assert better.startswith("Use own-round-01: it predicts lines that it has not seen better, by")
    assert better.endswith("nats per value (3 subjects), than brain-small.")
    worse = recommendation(learned(new, [-1.4, -1.43, -1.39]), None)
    assert worse.startswith("Keep brain-small: own-round-01 predicts lines that it has not seen wo")
    chance = recommendation(learned(new, [-1.6, -1.4, -1.49]), None)
    assert chance.startswith("Keep brain-small: ")
    assert "no more than chance" in chance
    narrow = recommendation(learned(new, [-1.7, -1.74, -1.69], coverage=0.7), None)
    assert "Its 90 % intervals hold 70% of the held-out values: draws 0.25 times as far" in narrow


def test_an_image_that_was_learned_by_heart_is_found_whatever_its_orientation() -> None:
    training = [(discs(k), f"scan {k}") for k in range(6)]
    copy = np.exp(1j) * 3 * discs(4)[::-1, :]
    found = search(
        [copy.astype(np.complex64), discs(20)], [discs(k) for k in range(10, 16)], training
    )
    assert found.nearest[0].correlation == pytest.approx(1, abs=1e-5)
    assert found.nearest[0].origin == "scan 4"
    assert found.nearest[1].correlation < 0.999
    assert found.too_near >= 1
    assert found.nearest[0].correlation > found.bound
    said = recommendation(learned([-1.5] * 3, [-1.7, -1.74, -1.69]), found)
    assert "do not let the weights leave the house" in said
    few = search([discs(4)], [], training)
    assert math.isnan(few.bound)
    assert few.too_near == 0


def test_the_page_carries_no_markup_of_an_archive_s_names(tmp_path: Path) -> None:
    plan = ArchivePlan(from_undersampled="<script>", out=tmp_path)
    memory = MemorySearch([discs(0)], [Nearest(0.5, "<i>scan</i>", discs(1))], [0.9] * 6)
    told = learned([-1.5] * 3, [-1.7, -1.74, -1.69])
    page, data = write_report(tmp_path, plan, told, memory)
    text = page.read_text()
    assert "<script>" not in text
    assert "<i>" not in text
    assert "<td><b>" not in text
    assert "NaN &amp; more" in text
    assert data.exists()
    assert document(plan, told, memory)["memory"]["too_near"] == 0
