"""What a session asks for: its config and the parameters of the scanner's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ismrmrd.xsd import ismrmrdHeader
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recon.choices import PresetName
from recon.errors import ScanError
from recon.io.mrd_header import parse_header
from service.gateway_configs import UNCHOSEN, Choice
from service.scanner.mrd_stream import Measurement


class Parameters(BaseModel):
    """What a scanner's protocol may set; its names have neither underscores nor hyphens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    quality: PresetName | None = None
    numsamples: int | None = Field(default=None, ge=2, le=64)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    sendstd: bool = True
    mode: Literal["inline", "trigger", "retrieve"] | None = None
    sendpreview: bool = True
    measurementid: str | None = Field(default=None, min_length=1, max_length=256)
    """Of the measurement to retrieve, where it is not the one of the header."""


def choice_of(measurement: Measurement, configs: Mapping[str, Choice]) -> Choice:
    """What the session's config stands for. Raises ScanError; nothing is looked up elsewhere.

    A client that chooses none, as OpenRecon cannot, may name one as the parameter `config`.
    """
    name = (measurement.config or "").strip()
    if name in UNCHOSEN:
        name = str(measurement.parameters.get("config") or name)
    choice = configs.get(name)
    if choice is None:
        known = ", ".join(sorted(known for known in configs if known))
        raise ScanError("mrd-config", f"this config is not known; the names are {known}")
    return choice


def parameters_of(measurement: Measurement) -> Parameters:
    """Those of the header, and over them those of the JSON text. Raises ScanError."""
    sent = _of_header(header_of(measurement)) | measurement.parameters
    # Scanners send every parameter of their card; what was left blank was not set.
    values = {name: value for name, value in sent.items() if value not in ("", None)}
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]) for item in error.errors())
        raise ScanError("mrd-parameters", f"these parameters are out of range: {names}") from error


def header_of(measurement: Measurement) -> ismrmrdHeader:
    """The header that was sent. Raises ScanError."""
    if measurement.xml is None:
        raise ScanError("mrd-order", "no header was sent; send it before the raw data")
    return parse_header(measurement.xml)


def _of_header(header: ismrmrdHeader) -> dict[str, Any]:
    """User parameters by name; a vendor's own ones have other names."""
    found: dict[str, Any] = {}
    parameters = header.userParameters
    for kind in ("Long", "Double", "String") if parameters is not None else ():
        for parameter in getattr(parameters, f"userParameter{kind}"):
            found[str(parameter.name)] = parameter.value
    return {name: value for name, value in found.items() if name in Parameters.model_fields}
