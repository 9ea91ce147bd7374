"""A real Orthanc with its DICOMweb plugin (Debian) on loopback, for as long as a block takes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pydicom
import pytest

from tests.service.live import wait_for

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def orthanc(folder: Path, dicom_port: int | None = None) -> Iterator[str]:
    """URL of its DICOMweb services; skips the test by name where Debian's packages are absent.

    With a `dicom_port` it also takes C-STORE there, as the node ORTHANC.
    """
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    if not Path(program).exists() or not _PLUGIN.exists():
        pytest.skip("Debian's orthanc and orthanc-dicomweb are not installed")
    port = free_port()
    folder.mkdir(parents=True)
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "storage"),
                "IndexDirectory": str(folder / "index"),
                "HttpPort": port,
                "HttpBindAddresses": ["127.0.0.1"],
                "DicomServerEnabled": dicom_port is not None,
                "DicomPort": dicom_port or 0,
                "DicomAet": "ORTHANC",
                "DicomCheckCalledAet": True,
                "DicomAlwaysAllowStore": True,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {"user": "secret"},
                "Plugins": [str(_PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            }
        )
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}/dicom-web"
        try:
            wait_for(lambda: _answers(url) or process.poll() is not None, 60)
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            yield url
        finally:
            process.terminate()
            process.wait(30)


def retrieved(url: str, study: str) -> dict[str, bytes]:
    """Instances of a study by WADO-RS: UID and file."""
    answer = httpx.get(
        f"{url}/studies/{study}",
        auth=("user", "secret"),
        headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text[:500]
    boundary = answer.headers["content-type"].partition("boundary=")[2].split(";")[0].strip('"')
    found = {}
    for part in answer.content.split(b"--" + boundary.encode())[1:-1]:
        content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        data = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
        found[str(data.SOPInstanceUID)] = content
    return found


def _answers(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/studies", auth=("user", "secret"), timeout=5)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200
