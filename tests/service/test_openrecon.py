"""What OpenRecon sends and wants: its one config name, its parameters, its label and its zip."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recon.errors import ScanError
from service.gateway_configs import Choice, Mode, configs_of
from service.scanner.mrd_stream import Measurement
from service.scanner.parameters import Parameters, choice_of, parameters_of
from tests.service.mrd_sessions import XML

ROOT = Path(__file__).parents[2]


def package() -> Any:
    """The script that packs the image, which is no module of the package."""
    path = ROOT / "docker/openrecon/package.py"
    spec = importlib.util.spec_from_file_location("openrecon_package", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(sent: str | None, /, **parameters: object) -> Measurement:
    return Measurement(spool=None, config=sent, xml=XML, parameters=dict(parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", [None, "", "openrecon", " openrecon\n"])
def test_a_client_that_chooses_no_config_gets_the_default_or_what_its_parameter_names(
    config: str | None,
) -> None:
    configs = configs_of({})
    assert choice_of(measured(config), configs) == Choice("standard")
    assert choice_of(measured(config, config=""), configs) == Choice("standard")
    assert choice_of(measured(config, config="fast"), configs) == Choice("fast")
    with pytest.raises(ScanError, match="the names are"):
        choice_of(measured(config, config="os"), configs)


def test_the_site_says_what_openrecon_stands_for_and_a_chosen_config_stays() -> None:
    configs = configs_of({"openrecon": "fast:trigger"})
    assert choice_of(measured("openrecon"), configs) == Choice("fast", Mode.TRIGGER)
    assert choice_of(measured("thorough", config="fast"), configs) == Choice("thorough")


def test_what_was_left_blank_was_not_set() -> None:
    blank = measured("openrecon", quality="", numsamples="", seed="", mode="", measurementid="")
    assert parameters_of(blank) == Parameters()
    typed = measured("openrecon", numsamples="4", sendstd="false", quality="fast", other="x")
    assert parameters_of(typed) == Parameters(numsamples=4, sendstd=False, quality="fast")


def test_the_label_holds_what_the_gateway_understands_and_the_schema_allows() -> None:
    script = package()
    label = script.load_label("1.2.3")
    assert script.mistakes_in(label) == []
    assert label["reconstruction"]["port"] == 9002
    names = {parameter["id"] for parameter in label["parameters"]}
    assert names <= set(Parameters.model_fields)
    defaults = {p["id"]: p["default"] for p in label["parameters"]}
    assert parameters_of(measured("openrecon", **defaults)).numsamples == 8
    for parameter in label["parameters"]:
        for value in parameter.get("values", ()):
            parameters_of(measured("openrecon", **{parameter["id"]: value["id"]}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("general", "version"), "1.2"),
        (("reconstruction", "emitter"), "kspace"),
        (("reconstruction", "transfer_protocol"), {"protocol": "ISMRMRD", "version": "2"}),
        (("parameters", 0, "id"), "num_samples"),
        (("parameters", 0, "default"), "none of them"),
        (("parameters", 0, "colour"), "red"),
        (("parameters", 1, "unit"), {"en": "pieces"}),
    ],
)
def test_labels_that_the_scanner_refuses_are_refused_here(
    path: tuple[Any, ...], value: Any
) -> None:
    script = package()
    label = script.load_label("1.2.3")
    place = label
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert script.mistakes_in(label)
    label = script.load_label("1.2.3")
    label["parameters"] *= 3
    assert script.mistakes_in(label)


def test_image_tag_files_and_zip_are_named_as_the_scanner_wants(tmp_path: Path) -> None:
    script = package()
    label = script.load_label("1.2.3")
    tag, stem = script.names_of(label)
    assert re.fullmatch(r"openrecon_[a-z0-9]+_[a-z0-9]+:v1\.2\.3", tag)
    assert stem == "OpenRecon_MriPosterior_MriPosterior_V1.2.3"
    text = script.dockerfile_of(label, "mri-posterior")
    [encoded] = re.findall(rf'LABEL "{re.escape(script.KEY)}"="([A-Za-z0-9+/=]+)"', text)
    assert json.loads(base64.b64decode(encoded)) == label
    (tmp_path / "image.tar").write_bytes(b"image")
    (tmp_path / "manual.pdf").write_bytes(b"%PDF-1.4")
    made = script.pack(stem, tmp_path / "image.tar", tmp_path / "manual.pdf", tmp_path / "out")
    with zipfile.ZipFile(made) as archive:
        assert archive.namelist() == [f"{stem}.tar", f"{stem}.pdf"]
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    (tmp_path / "manual.pdf").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="no PDF"):
        script.pack(stem, tmp_path / "image.tar", tmp_path / "manual.pdf", tmp_path / "out")
