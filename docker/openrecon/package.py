"""Packs the image for Siemens OpenRecon: label, image, PDF and zip, named as the scanner wants.

    python docker/openrecon/package.py --image mri-posterior --pdf manual.pdf --out dist

What the label may hold is checked by the rules of OpenReconSchema 1.1.0; the same file is checked
against the schema itself with --schema FILE (public copies: NeuroDesk/openrecon on GitHub).
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
_MOST_PARAMETERS = 14
_FIELDS = {
    "boolean": {"default"},
    "string": set(),
    "choice": {"default", "values"},
    "int": {"default", "minimum", "maximum"},
    "double": {"default", "minimum", "maximum"},
}
_OPTIONAL = {"information", "unit", "isLargeText"}
_RECONSTRUCTION = {
    "transfer_protocol", "port", "emitter", "injector", "can_use_gpu", "min_required_memory",
    "min_count_required_cpu_cores",
}  # fmt: skip
_REGULATORY = {
    "device_trade_name", "production_identifier", "manufacturer_address", "made_in",
    "manufacture_date", "material_number", "gtin", "udi", "safety_advices",
    "special_operating_instructions", "additional_relevant_information",
}  # fmt: skip

Label = dict[str, Any]


def load_label(version: str) -> Label:
    """The label of this version. Raises ValueError where the scanner would not take it."""
    label: Label = json.loads((HERE / "label.json").read_text(encoding="utf-8"))
    label["general"]["version"] = version
    label["general"]["regulatory_information"]["production_identifier"] = version
    wrong = mistakes_in(label)
    if wrong:
        raise ValueError("; ".join(wrong))
    return label


def mistakes_in(label: Label) -> list[str]:
    """What the scanner's schema forbids, in words."""
    found = []
    general, reconstruction = label["general"], label["reconstruction"]
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}([-+].*)?", general["version"]):
        found.append(f"version {general['version']} is not major.minor.patch")
    if set(general["regulatory_information"]) != _REGULATORY:
        found.append("regulatory_information lacks fields or has others")
    if missing := _RECONSTRUCTION - set(reconstruction):
        found.append(f"reconstruction lacks {sorted(missing)}")
    if reconstruction["transfer_protocol"] != {"protocol": "ISMRMRD", "version": "1.4.1"}:
        found.append("the protocol is ISMRMRD 1.4.1")
    if reconstruction["emitter"] not in {"raw", "image"}:
        found.append("the emitter is raw or image")
    if reconstruction["injector"] not in {"image", "compleximage"}:
        found.append("the injector is image or compleximage")
    parameters = label["parameters"]
    if len(parameters) > _MOST_PARAMETERS:
        found.append(f"at most {_MOST_PARAMETERS} parameters, not {len(parameters)}")
    for parameter in parameters:
        found += _mistakes_in_parameter(parameter)
    return found


def names_of(label: Label) -> tuple[str, str]:
    """Tag of the image, and stem of the files, for vendor, name and version of the label."""
    general = label["general"]
    vendor, name, version = general["vendor"], general["name"]["en"], general["version"]
    stem = f"OpenRecon_{vendor}_{name}_V{version}"
    return f"openrecon_{vendor}_{name}:v{version}".lower(), stem


def dockerfile_of(label: Label, image: str) -> str:
    """The service's image, as a gateway and worker in one, with the label."""
    port = label["reconstruction"]["port"]
    encoded = base64.b64encode(json.dumps(label).encode()).decode()
    return (
        f'FROM {image}\nLABEL "{KEY}"="{encoded}"\n'
        f"ENV MRI_POSTERIOR_GATEWAY_HOST=0.0.0.0 MRI_POSTERIOR_GATEWAY_PORT={port}\n"
        f'EXPOSE {port}\nCMD ["serve"]\n'
    )


def pack(stem: str, tar: Path, pdf: Path, out: Path) -> Path:
    """The zip with image and manual of one stem, deflated."""
    if not pdf.read_bytes().startswith(b"%PDF"):
        raise ValueError(f"{pdf} is no PDF")
    out.mkdir(parents=True, exist_ok=True)
    made = out / f"{stem}.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        archive.write(tar, f"{stem}.tar")
        archive.write(pdf, f"{stem}.pdf")
    return made


def main() -> None:
    """Build, save and pack; needs Docker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True, help="image of the service, built before")
    parser.add_argument("--pdf", required=True, type=Path, help="manual")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--version", required=True, help="of the software")
    parser.add_argument("--schema", type=Path, help="OpenReconSchema_1.1.0.json")
    asked = parser.parse_args()
    label = load_label(asked.version)
    if asked.schema is not None:
        import jsonschema  # lazy: only where a schema is given

        jsonschema.Draft7Validator(json.loads(asked.schema.read_text())).validate(label)
    tag, stem = names_of(label)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(dockerfile_of(label, asked.image))
        build = ["docker", "build", "--platform", "linux/amd64", "--tag", tag, folder]
        subprocess.run(build, check=True)
        tar = Path(folder) / f"{stem}.tar"
        subprocess.run(["docker", "save", "--output", str(tar), tag], check=True)
        sys.stdout.write(f"{pack(stem, tar, asked.pdf, asked.out)}\n")


def _mistakes_in_parameter(parameter: Label) -> list[str]:
    kind, name = parameter["type"], parameter["id"]
    found = []
    if not re.fullmatch(r"[A-Za-z0-9]+", name):
        found.append(f"parameter {name}: letters and digits only")
    needed = {"type", "id", "label"} | _FIELDS.get(kind, {"unknown type"})
    allowed = needed | _OPTIONAL | {"default"}
    if not needed <= set(parameter) <= allowed:
        found.append(f"parameter {name}: fields are {sorted(needed)}")
    if not 0 < len(parameter.get("unit", {"en": "x"})["en"]) <= 3:
        found.append(f"parameter {name}: units have one to three letters")
    if kind == "choice" and parameter.get("default") not in [v["id"] for v in parameter["values"]]:
        found.append(f"parameter {name}: the default is none of the choices")
    if kind == "double":
        found += [
            f"parameter {name}: {field} is no multiple of 0.1"
            for field in ("minimum", "maximum", "default")
            if abs(10 * parameter[field] - round(10 * parameter[field])) > 1e-9
        ]
    return found


if __name__ == "__main__":
    main()
