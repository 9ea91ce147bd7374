"""The viewer's types of the HTTP API are those of the API as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import service
from service.http.app import api_document

VIEWER = Path(service.__file__).parent / "viewer"
GENERATOR = VIEWER / "node_modules" / "openapi-typescript"


@pytest.mark.skipif(
    shutil.which("node") is None or not GENERATOR.is_dir(),
    reason="needs Node.js and the viewer's packages: `make viewer`",
)
def test_the_types_are_up_to_date() -> None:
    run = subprocess.run(
        ["node", "generate-types.mjs"],
        cwd=VIEWER,
        input=json.dumps(api_document()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == (VIEWER / "src/openapi.ts").read_text(), "run `make types`"
