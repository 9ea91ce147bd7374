"""What an operator may choose: environment, a TOML file and flags, in one documented table."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.gateway_configs import configs_of

CONFIG_VARIABLE = "MRI_POSTERIOR_CONFIG"
_config: ContextVar[str | None] = ContextVar("config", default=None)
"""The TOML file of the settings that are being loaded."""
PREFIX = "MRI_POSTERIOR_"


class StowTarget(BaseModel):
    """A DICOMweb server that images may be sent to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://[^\s?#@]+$")
    """Root of its DICOMweb services; `/studies` follows."""
    user: str | None = None
    password: str | None = Field(None, repr=False)
    token: str | None = Field(None, repr=False)
    """Bearer token, in place of user and password."""
    certificates: Path | None = None
    """Authorities that it is checked against, if not the usual ones."""
    seconds: float = Field(60, gt=0)
    """Longest wait for an answer."""


_TITLE = r"^[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15}$"


class DimseTarget(BaseModel):
    """A DICOM node that images may be sent to by C-STORE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$")
    port: int = Field(104, ge=1, le=65535)
    called_title: str = Field("ANY-SCP", pattern=_TITLE)
    """Application entity title of the node."""
    calling_title: str = Field("MRI_POSTERIOR", pattern=_TITLE)
    """Our own, as the node may know it."""
    tls: bool = False
    certificates: Path | None = None
    """Authorities that it is checked against, if not the usual ones."""
    own_certificate: Path | None = None
    """Certificate and key (PEM) that we show."""
    seconds: float = Field(60, gt=0)
    """Longest wait for an answer."""


DeliveryTarget = StowTarget | DimseTarget


class SettingsError(Exception):
    """The settings are not usable; the message says which and why."""

    code = "settings"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


_DATA = "$XDG_DATA_HOME/mri-posterior/service"


def _default_data() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "mri-posterior" / "service"


class ServiceSettings(BaseSettings):
    """Settings of the server; flags win over the environment, that over the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True
    )

    data: Path = Field(default_factory=_default_data, description="folder of scans and results")
    database: str = Field(
        "", description="postgresql://… where several hosts share it [SQLite in `data`]"
    )
    storage: str = Field(
        "", description="folder or s3://BUCKET/PREFIX of scans and results [the folder `data`]"
    )
    copies_bytes: int = Field(
        20 << 30, gt=0, description="room for copies of what lies in an object store"
    )
    host: str = Field("127.0.0.1", description="address to bind; others than loopback need a key")
    port: int = Field(8080, ge=0, le=65535, description="port to bind")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that requests may be addressed to, beside loopback"
    )
    workers: int = Field(0, ge=0, le=64, description="worker processes; 0: one per GPU, or one")
    device: str = Field("auto", description="auto, cpu, cuda; workers share CUDA devices out")
    worker_threads: int = Field(0, ge=0, description="threads per worker; 0: a share of the cores")
    default_model: str = Field("", description="prior when a request names none [the shipped one]")
    jobs_at_once: int = Field(
        1, ge=1, le=32, description="jobs of a worker: one samples, others are read and written"
    )
    share_batches: bool = Field(
        False, description="slices of several jobs at once share the network's batches (GPU)"
    )
    slices_per_part: int = Field(
        8, ge=1, description="slices that one worker takes of a volume that several share"
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="times that one slice may lose its worker before the job fails"
    )
    heartbeat_seconds: float = Field(2, gt=0, description="how often a worker says that it lives")
    worker_lost_seconds: float = Field(
        30, gt=0, description="silence after which another worker takes the jobs over"
    )
    stuck_seconds: float = Field(
        900, ge=0, description="time without progress after which a worker is killed; 0: never"
    )
    start_seconds: float = Field(
        1800, ge=0, description="time for a worker to start, its libraries loaded; 0: any"
    )
    grace_seconds: float = Field(
        25, ge=0, description="time to finish a slice after SIGTERM; later it is done again"
    )
    queue_poll_seconds: float = Field(0.2, gt=0, description="how often workers look for jobs")
    progress_seconds: float = Field(0.5, gt=0, description="least time between progress events")
    max_upload_bytes: int = Field(8 << 30, gt=0, description="largest scan")
    max_json_bytes: int = Field(4 << 20, gt=0, description="largest JSON body")
    max_volume_bytes: int = Field(
        16 << 30,
        gt=0,
        description="memory that a scan sampled as one volume may need",
    )
    disk_floor_bytes: int = Field(1 << 30, ge=0, description="free space below which uploads stop")
    max_queue: int = Field(1000, ge=1, description="jobs that may wait in all")
    max_batched_per_key: int = Field(
        100_000, ge=1, description="unfinished items of one key's batches"
    )
    max_active_per_key: int = Field(200, ge=1, description="unfinished jobs of one key")
    max_scan_bytes_per_key: int = Field(
        0, ge=0, description="bytes of all scans of one key together; 0: what the disk holds"
    )
    max_uploads_per_key: int = Field(100, ge=1, description="unfinished tus uploads of one key")
    max_requests_per_key: int = Field(
        400, ge=1, description="requests of one key that are answered at the same time"
    )
    requests_per_minute: int = Field(12000, ge=1, description="requests of one key")
    max_wait_seconds: float = Field(60, ge=0, description="longest `Prefer: wait`")
    max_streams: int = Field(500, ge=1, description="event streams open at once")
    max_connections: int = Field(
        2000, ge=1, description="connections open at once; idle ones make room for new ones"
    )
    max_connections_per_address: int = Field(
        1000, ge=1, description="connections of one address; a proxy has one address for all"
    )
    idle_seconds: float = Field(
        60, gt=0, description="silence after which a request body counts as broken off"
    )
    upload_expiry_hours: float = Field(24, gt=0, description="life of an unfinished upload")
    gateway_port: int = Field(
        -1, ge=-1, le=65535, description="port for scanners, customarily 9002; 0: any, -1: none"
    )
    gateway_host: str = Field(
        "127.0.0.1", description="address for scanners; their protocol has no passwords"
    )
    gateway_mode: Literal["inline", "trigger"] = Field(
        "inline", description="when scanners get images, where they do not say: now, or later"
    )
    gateway_configs: dict[str, str] = Field(
        {}, description='what scanners call them: {"openrecon": "standard:trigger"}'
    )
    gateway_seconds: float = Field(3600, gt=0, description="longest wait of an inline session")
    gateway_hours: float = Field(
        24, gt=0, description="how long images are found by device, protocol and frame of reference"
    )
    uid_key: str = Field(
        "", repr=False, description="key that DICOM UIDs derive from [made once, in `data`]"
    )
    delivery_targets: dict[str, DeliveryTarget] = Field(
        {},
        description='where DICOM may be sent: {"pacs": {"url": "https://…/dicom-web"}}, or by '
        'C-STORE {"pacs": {"host": "…", "port": 104, "called_title": "…"}}',
    )
    delivery_attempts: int = Field(8, ge=1, le=100, description="tries to send to a target")
    delivery_pause_seconds: float = Field(
        2, gt=0, description="pause after the first failed try; doubled each time, an hour at most"
    )
    keep_results_days: float = Field(
        0, ge=0, description="days after which results are removed; 0: never"
    )
    housekeeping_seconds: float = Field(
        600, gt=0, description="how often expired uploads, results and orphans are removed"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="log level")

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("storage")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if "://" in value and not value.startswith(("s3://", "gs://", "az://")):
            raise ValueError("a storage is a folder, s3://, gs:// or az://BUCKET/PREFIX")
        return value.rstrip("/") if "://" in value else value

    @field_validator("database")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("a database is sqlite:///FILE or postgresql://USER@HOST/NAME")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the TOML file."""
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        if file := _config.get() or os.environ.get(CONFIG_VARIABLE):
            sources += (TomlConfigSettingsSource(settings_cls, Path(file)),)
        return sources

    @field_validator("gateway_configs")
    @classmethod
    def _known_configs(cls, value: dict[str, str]) -> dict[str, str]:
        configs_of(value)
        return value

    @property
    def database_url(self) -> str:
        """For SQLAlchemy."""
        if not self.database:
            return f"sqlite:///{self.data / 'service.sqlite'}"
        return self.database.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def load_settings(config: Path | None = None, **flags: object) -> ServiceSettings:
    """Settings of this process; flags that are None were not given. Raises SettingsError.

    `config` is a TOML file, in place of the one that the environment names.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    file = str(config) if config is not None else os.environ.get(CONFIG_VARIABLE)
    if file and not Path(file).is_file():
        raise SettingsError(f"{CONFIG_VARIABLE} names '{file}', which is not a file")
    token = _config.set(file)
    try:
        return ServiceSettings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError("; ".join(lines)) from error
    finally:
        _config.reset(token)


def to_environment(settings: ServiceSettings) -> dict[str, str]:
    """Variables that make a child process load these very settings."""
    variables = {}
    for name, value in settings.model_dump(mode="json").items():
        variables[PREFIX + name.upper()] = value if isinstance(value, str) else json.dumps(value)
    return variables


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    name: str
    variable: str
    default: str
    meaning: str


def table() -> list[Setting]:
    """Every setting, in the order of the file."""
    return [
        Setting(
            name,
            PREFIX + name.upper(),
            _DATA if name == "data" else _shown(field.get_default()),
            field.description or "",
        )
        for name, field in ServiceSettings.model_fields.items()
    ]


def in_force(settings: ServiceSettings, name: str) -> str:
    """The value of a setting as it may be shown: a database's password is left out."""
    value = getattr(settings, name)
    if name == "database" and value:
        return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", value)
    return _shown(value)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
