"""Folders, patterns and manifests become lists of scans; what is wrong is said by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recon.errors import ScanError
from service.archives.sources import find_scans, shard


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in ("a/1.h5", "a/2.hdf5", "b/3.h5", "b/notes.txt", ".state/4.h5"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    return tmp_path


def test_a_folder_is_searched_to_the_bottom_but_not_where_it_is_hidden(archive: Path) -> None:
    assert [found.name for found in find_scans(str(archive))] == ["a/1.h5", "a/2.hdf5", "b/3.h5"]


def test_a_pattern_and_a_file_are_sources_too(archive: Path) -> None:
    places = [found.place for found in find_scans(f"{archive}/*/*.h5")]
    assert places == [f"{archive}/a/1.h5", f"{archive}/b/3.h5"]
    assert len(find_scans(f"{archive}/a/1.h5")) == 1


def test_manifests_choose_parameters_scan_by_scan(archive: Path) -> None:
    table = archive / "list.csv"
    table.write_text("scan,id,seed,preset\na/1.h5,first,7,\n/x/y.h5,,,fast\ns3://b/k.h5,,,\n")
    first, second, third = find_scans(str(table))
    assert (first.name, first.place) == ("first", f"{archive}/a/1.h5")
    assert first.chosen == {"seed": "7"}
    assert (second.place, second.chosen) == ("/x/y.h5", {"preset": "fast"})
    assert third.place == "s3://b/k.h5"
    lines = archive / "list.ndjson"
    lines.write_text(json.dumps({"scan": "a/1.h5", "seed": 7}) + "\n\n")
    (only,) = find_scans(str(lines))
    assert only.chosen == {"seed": 7}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"seed": 1}', "line 1 names no scan"),
        ('{"scan": "a"}\n{"scan": "b", "sed": 1}', "line 2: 'sed' is not a column"),
        ("[]", "line 1 is not a JSON object"),
        ("{", "line 1 is not JSON"),
        ("", "holds no scan"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "list.ndjson"
    file.write_text(text)
    with pytest.raises(ScanError, match=told):
        find_scans(str(file))


def test_the_parts_of_an_archive_are_all_of_it_and_stay_as_it_grows(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.h5").touch()
    before = [shard(find_scans(str(tmp_path)), f"{part}/3") for part in range(3)]
    names = [{found.name for found in part} for part in before]
    assert all(names)
    assert sum(map(len, names)) == len(set.union(*names)) == 40
    (tmp_path / "new.h5").touch()
    after = [shard(find_scans(str(tmp_path)), f"{part}/3") for part in range(3)]
    for old, new in zip(names, after, strict=True):
        assert old <= {found.name for found in new}
    for wrong in ("3/3", "1", "a/b"):
        with pytest.raises(ScanError, match="is not a part"):
            shard([], wrong)


def test_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="nothing at"):
        find_scans(str(tmp_path / "absent"))
    with pytest.raises(ScanError, match="holds no scan"):
        find_scans(str(tmp_path))
