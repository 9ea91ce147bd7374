"""Files behave the same in a folder and in an S3-compatible object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cluster import BUCKET, object_store, s3_client
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.settings import ServiceSettings, SettingsError, load_settings
from service.store.archive import archived_file
from service.store.files import MARKER, Storage, open_storage
from service.store.objects import ObjectStore, StorageError
from tests.problems import power_law_prior
from tests.recon.scan_files import assert_same

OUTPUT = "ab" * 32


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with object_store() as variables:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        yield variables
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        made = Storage(tmp_path / "folder")
    else:
        request.getfixturevalue("store")
        name = f"s3://{BUCKET}/{tmp_path.name}"
        made = open_storage(ServiceSettings(data=tmp_path / "data", storage=name))
    made.prepare()
    return made


def test_a_scan_is_kept_by_content_and_comes_back(storage: Storage, tmp_path: Path) -> None:
    content = b"scan" * 1000
    digest = sha256(content).hexdigest()
    part = storage.incoming / "x.part"
    part.write_bytes(content)
    assert not storage.has_scan(digest)
    storage.adopt_scan(part, digest)
    assert storage.has_scan(digest)
    storage.release(OUTPUT, digest)  # a copy may go, the scan stays
    with archived_file(storage, digest, None) as file:
        assert file.read_bytes() == content
    storage.remove_scan(digest)
    assert not storage.has_scan(digest)


def test_an_output_is_complete_when_its_last_file_is_there(storage: Storage) -> None:
    storage.write_product(OUTPUT, "mean.npy", lambda f: np.save(f, np.arange(6)))
    assert not storage.is_complete(OUTPUT)
    assert storage.outputs() == {}
    storage.write_product(OUTPUT, MARKER, lambda f: f.write(b"{}"))
    assert storage.is_complete(OUTPUT)
    assert set(storage.outputs()) == {OUTPUT}
    assert storage.outputs()[OUTPUT][MARKER] == 2
    storage.release(OUTPUT, "0" * 64)
    assert np.load(storage.product(OUTPUT, "mean.npy")).tolist() == list(range(6))
    storage.remove(OUTPUT)
    assert not storage.is_complete(OUTPUT)
    assert not storage.product(OUTPUT, "mean.npy").exists()


def test_the_ledger_keeps_its_order_and_ends_with_its_job(storage: Storage) -> None:
    for number in range(5):
        storage.note_step("JOB", step="slice 0", what="started", at=number)
    assert [entry["at"] for entry in storage.steps("JOB")] == [0, 1, 2, 3, 4]
    assert storage.steps("OTHER") == []
    storage.remove_traces("JOB")
    assert storage.steps("JOB") == []


def test_a_slice_and_its_picture_come_back_exactly(storage: Storage) -> None:
    full, _ = simulate(1, 4, 32, 32, 40)
    scan = undersample(full, undersampling_mask((32, 32), "equispaced", 1.6, 0.5, 0))
    events = reconstruct(scan, power_law_prior(32), Settings(preset="fast", self_check=False))
    (posterior,) = [event for event in events if isinstance(event, SlicePosterior)]
    assert not storage.has_slice("JOB", 0)
    storage.write_slice("JOB", posterior)
    assert_same(storage.read_slice("JOB", 0), posterior)
    assert storage.read_preview("JOB", 0) is None
    picture = np.arange(6, dtype=np.float32).reshape(2, 3)
    storage.write_preview("JOB", 0, picture)
    shown = storage.read_preview("JOB", 0)
    assert shown is not None
    assert (shown == picture).all()
    storage.remove_checkpoints("JOB")
    assert not storage.has_slice("JOB", 0)


def test_what_is_interrupted_leaves_nothing_under_its_name(storage: Storage) -> None:
    def fail(file: object) -> None:
        raise OSError(28, "no space left on device")

    with pytest.raises(OSError, match="no space"):
        storage.write_product(OUTPUT, MARKER, fail)
    assert not storage.is_complete(OUTPUT)
    assert not storage.product(OUTPUT, MARKER).exists()


def test_others_see_plain_objects(store: dict[str, str], tmp_path: Path) -> None:
    name = f"s3://{BUCKET}/plain"
    storage = open_storage(ServiceSettings(data=tmp_path, storage=name))
    storage.prepare()
    storage.write_product(OUTPUT, MARKER, lambda f: f.write(b'{"a": 1}'))
    key = f"plain/outputs/ab/{OUTPUT}/{MARKER}"
    assert s3_client(store).get_object(Bucket=BUCKET, Key=key)["Body"].read() == b'{"a": 1}'


def test_copies_are_removed_when_there_is_no_room_and_nobody_reads_them(
    store: dict[str, str], tmp_path: Path
) -> None:
    objects = ObjectStore(f"s3://{BUCKET}/copies")
    storage = Storage(tmp_path, objects, copies_bytes=1500)
    digests = [f"{number:064x}" for number in range(3)]
    for digest in digests:
        objects.write(f"scans/{digest[:2]}/{digest}.h5", bytes(1000))
    for digest in digests[:2]:
        os.utime(storage.scan(digest), (0, 0))  # long unused
    storage.scan(digests[2])
    kept = [storage.root / f"scans/{digest[:2]}/{digest}.h5" for digest in digests]
    assert [file.exists() for file in kept] == [False, False, True]


def test_a_store_that_is_not_there_says_so(store: dict[str, str]) -> None:
    with pytest.raises(StorageError, match="bucket that is not there"):
        ObjectStore("s3://no-such-bucket/x").write("a", b"")
    with pytest.raises(StorageError, match="mount it"):
        ObjectStore("ftp://host/x")
    with pytest.raises(SettingsError, match="storage is a folder"):
        load_settings(storage="ftp://host/x")
