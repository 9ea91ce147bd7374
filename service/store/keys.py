"""API keys: 256 random bits each, of which only a digest is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from service.store.database import api_keys

_FORM = re.compile(r"mrip_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    """Everybody's jobs and scans, beside everything else."""


@dataclass(frozen=True)
class Key:
    """A stored key, without its secret; times are seconds since the epoch."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def allows(self, scope: Scope) -> bool:
        """Whether the key may do this; `admin` may all, `write` may read."""
        if Scope.ADMIN in self.scopes:
            return True
        return scope in self.scopes or (scope is Scope.READ and Scope.WRITE in self.scopes)


LOCAL = Key("local", "local", frozenset(Scope), 0.0, None, None)
"""Whoever asks a server without keys, which only this machine can reach."""


class Keys:
    """The table of keys."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(self, name: str, scopes: frozenset[Scope], days: float | None) -> tuple[Key, str]:
        """A new key and its token, which is shown this once."""
        now = time.time()
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        key = Key(key_id, name, scopes, now, None if days is None else now + days * 86400, None)
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(api_keys).values(
                    id=key.id,
                    name=key.name,
                    sha256=_digest(secret),
                    scopes=sorted(key.scopes),
                    created_at=key.created_at,
                    expires_at=key.expires_at,
                )
            )
        return key, f"mrip_{key_id}_{secret}"

    def all(self) -> list[Key]:
        """Every key, revoked ones too."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at))
            return [_key(row) for row in rows]

    def revoke(self, key_id: str) -> bool:
        """End a key; False when there is none of this id that is still in force."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(api_keys)
                .where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
                .values(revoked_at=time.time())
            ).rowcount
        return bool(changed)

    def required(self) -> bool:
        """Whether there ever was a key: revoking the last one must not open the server."""
        with self._engine.connect() as connection:
            return bool(connection.execute(sa.select(sa.func.count(api_keys.c.id))).scalar())

    def check(self, token: str) -> Key | None:
        """The key of a token, or None; takes as long for a wrong secret as for the right one."""
        form = _FORM.fullmatch(token)
        key_id, secret = form.groups() if form else ("", "")
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).first()
        expected = "" if row is None else str(row.sha256)
        same = hmac.compare_digest(expected.rjust(64), _digest(secret).rjust(64))
        if row is None or not same:
            return None
        key = _key(row)
        expired = key.expires_at is not None and key.expires_at < time.time()
        return None if expired or key.revoked_at is not None else key


def _digest(secret: str) -> str:
    # A fast hash is right here: nobody can guess 256 random bits, however fast.
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: sa.Row[tuple[object, ...]]) -> Key:
    values = row._mapping
    return Key(
        values["id"],
        values["name"],
        frozenset(Scope(scope) for scope in values["scopes"]),
        values["created_at"],
        values["expires_at"],
        values["revoked_at"],
    )
