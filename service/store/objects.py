"""Files in an object store (S3 and its kin), under one address, through fsspec.

An object appears under its name complete or not at all, so nothing needs to be renamed: what
consists of several objects is published by writing the one last that says which belong to it.
Addresses and credentials come from the environment as the store's own tools read them
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, …).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from obstore.exceptions import BaseError
from obstore.fsspec import register

PROTOCOLS = ("s3", "gs", "az")
_RETRIES: Any = {
    "max_retries": 8,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=60),
}

register(list(PROTOCOLS))


class StorageError(OSError):
    """The store does not answer, refuses, or is not there; `message` says which and what to do."""

    code = "storage"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def is_url(text: str) -> bool:
    """Whether a place is named by an address rather than by a path."""
    return "://" in text


def require_protocol(url: str) -> None:
    """Refuse addresses of stores whose objects could appear half written. Raises StorageError."""
    protocol = url.partition("://")[0]
    if protocol not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise StorageError(
            f"'{protocol}://' is no object store known here ({known}); mount it and give the folder"
        )


@dataclass(frozen=True)
class ObjectStore:
    """All objects below one address; keys are relative to it. Safe to share between threads."""

    url: str

    def __post_init__(self) -> None:
        require_protocol(self.url)

    def put(self, key: str, path: Path) -> None:
        """Store a file. Raises StorageError."""
        with _failures(self.url):
            self._files.put_file(str(path), self._name(key))

    def write(self, key: str, content: bytes) -> None:
        """Store bytes. Raises StorageError."""
        with _failures(self.url):
            self._files.pipe_file(self._name(key), content)

    def get(self, key: str, path: Path) -> None:
        """Fetch an object to a file that appears whole. Raises FileNotFoundError, StorageError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with _failures(self.url):
                self._files.get_file(self._name(key), str(aside))
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def read(self, key: str) -> bytes:
        """An object's bytes. Raises FileNotFoundError, StorageError."""
        with _failures(self.url):
            content: bytes = self._files.cat_file(self._name(key))
        return content

    def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises StorageError."""
        with _failures(self.url):
            return bool(self._files.isfile(self._name(key)))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Keys below a prefix that ends a folder's name, and their sizes. Raises StorageError."""
        with _failures(self.url):
            found = self._files.find(self._name(prefix), withdirs=False, detail=True)
        start = len(self._name("")) if self._name("").endswith("/") else len(self._name("")) + 1
        return {
            str(name)[start:]: int(entry["size"])
            for name, entry in found.items()
            if not str(name).endswith("/")
        }

    def remove(self, keys: list[str]) -> None:
        """Delete objects; those that are not there do not matter. Raises StorageError."""
        if keys:
            with _failures(self.url):
                self._files.rm([self._name(key) for key in keys])

    def address(self, key: str) -> str:
        """The URL of an object."""
        return f"{self.url.rstrip('/')}/{key}"

    @cached_property
    def _files(self) -> Any:  # noqa: ANN401 - fsspec has no types
        protocol = self.url.partition("://")[0]
        options: dict[str, Any] = {"retry_config": _RETRIES}
        if protocol == "s3" and os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["client_options"] = {"allow_http": True}
        return fsspec.filesystem(protocol, **options)

    def _name(self, key: str) -> str:
        place = self.url.partition("://")[2].rstrip("/")
        return f"{place}/{key}" if key else place


@contextmanager
def _failures(url: str) -> Iterator[None]:
    """What goes wrong on the way, as one kind of error."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageError(f"{url} names a bucket that is not there; create it") from error
        raise FileNotFoundError("there is no such object") from error
    except (BaseError, OSError, ValueError) as error:
        text = str(error).strip().splitlines()
        reason = (text[0] if text else type(error).__name__)[:200]
        raise StorageError(f"{url} does not answer as a store should ({reason})") from error
