"""The tables of the service, beside those of DBOS in the same database, and how it is opened.

One database means that a job's row and its durable workflow appear in one transaction, or neither.
SQLite is used in WAL mode, so that readers never wait for a writer.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event

from service.settings import SettingsError

metadata = sa.MetaData()
_JSON = sa.JSON
_BUSY_MILLISECONDS = 30_000
SCHEMA = 5
"""Of the tables below: 1 without tags of scans, 2 without a record of its number, 3 without how
scans are read and what calibrates them, 4 without how they were encoded, 5 this."""
_INTEGRITY_SECONDS = 60.0
"""How long the last look through a whole SQLite file is believed."""

scans = sa.Table(
    "service_scans",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("slices", sa.Integer, nullable=False),
    sa.Column("coils", sa.Integer, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("columns", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("tags", _JSON),
    sa.Column("layout", sa.Text),
    sa.Column("axes", sa.Text),
    sa.Column("two_phase_encodings", sa.Boolean),
    sa.UniqueConstraint("owner", "sha256"),
)

jobs = sa.Table(
    "service_jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("client_id", sa.Text),
    sa.Column("request_digest", sa.Text),
    sa.Column("predecessor", sa.Text),
    sa.Column("scan_id", sa.Text, nullable=False),
    sa.Column("scan_sha256", sa.Text, nullable=False),
    sa.Column("calibration_sha256", sa.Text),
    sa.Column("source", sa.Text),
    sa.Column("output", sa.Text),
    sa.Column("request", _JSON, nullable=False),
    sa.Column("priority", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("progress", _JSON),
    sa.Column("plan", _JSON),
    sa.Column("error", _JSON),
    sa.Column("results", _JSON),
    sa.Column("summary", _JSON),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("worker", sa.Text),
    sa.Column("traceparent", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("revision", sa.Integer, nullable=False, default=0),
    sa.UniqueConstraint("owner", "client_id"),
    sa.Index("service_jobs_state", "state"),
    sa.Index("service_jobs_owner", "owner", "created_at"),
    sa.Index("service_jobs_output", "output"),
    sa.Index("service_jobs_worker", "worker", "state"),
)

events = sa.Table(
    "service_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("data", _JSON, nullable=False),
    sa.Index("service_events_job", "job_id", "id"),
    sqlite_autoincrement=True,  # an id is never given twice, so Last-Event-ID stays meaningful
)

batches = sa.Table(
    "service_batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("on_error", sa.Text, nullable=False),
    sa.Column("request", _JSON, nullable=False),
    sa.Column("sealed", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

batch_items = sa.Table(
    "service_batch_items",
    metadata,
    sa.Column("batch_id", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scan_sha256", sa.Text),
    sa.Column("output", sa.Text),
    sa.Column("job_id", sa.Text),
    sa.Column("error", _JSON),
    sa.Index("service_batch_items_job", "job_id"),
)

idempotency = sa.Table(
    "service_idempotency",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("route", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("location", sa.Text),
    sa.Column("body", _JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
)

measurements = sa.Table(
    "service_measurements",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("number", sa.Text),
    sa.Column("place", sa.Text),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Index("service_measurements_number", "number"),
    sa.Index("service_measurements_place", "place"),
)

deliveries = sa.Table(
    "service_deliveries",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("products", _JSON, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("stored", _JSON, nullable=False),
    sa.Column("failures", _JSON, nullable=False),
    sa.Column("error", _JSON),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Index("service_deliveries_job", "job_id"),
)

api_keys = sa.Table(
    "service_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
)

totals = sa.Table(
    "service_totals",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("label", sa.Text, primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
)
"""What has been counted since the database was made; it stays when a job is deleted."""

workers = sa.Table(
    "service_workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float, nullable=False),
    sa.Column("starts", sa.Integer, nullable=False, default=1),
    sa.Column("offers", _JSON, nullable=False),
    sa.Column("load", _JSON),
)


schema_versions = sa.Table(
    "service_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("since", sa.Float, nullable=False),
)
"""Every version that this database has had, and since when."""


def open_database(url: str, *, busy_milliseconds: int = _BUSY_MILLISECONDS) -> sa.Engine:
    """An engine whose SQLite transactions take the write lock when they begin to write.

    Its errors do not show the values of a statement: they are logged, and may name a patient.
    """
    pool = {"pool_size": 10, "max_overflow": 10, "hide_parameters": True}
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_pre_ping=True, **pool)
    engine = sa.create_engine(url, **pool)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout={busy_milliseconds}")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


class Integrity:
    """Whether the tables can be read, looked at anew each time, and whether they are whole.

    A pooled connection goes on answering from its own memory when the file behind it is damaged.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._checked = -math.inf
        self._whole = True

    def good(self) -> bool:
        """No error is raised: whatever is wrong, the answer is no."""
        try:
            if self._engine.dialect.name != "sqlite":
                with self._engine.connect() as connection:
                    connection.execute(sa.select(workers.c.id).limit(1)).all()
                return True
            return self._sqlite_is_good()
        except (sa.exc.SQLAlchemyError, sqlite3.Error):
            return False

    def _sqlite_is_good(self) -> bool:
        file = quote(str(Path(self._engine.url.database or "").absolute()))
        with closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True, timeout=1)) as connection:
            for table in metadata.sorted_tables:
                connection.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchall()
            if time.monotonic() - self._checked > _INTEGRITY_SECONDS:
                found = connection.execute("PRAGMA quick_check(1)").fetchone()
                self._whole = found == ("ok",)
                self._checked = time.monotonic()
        return self._whole


def create_database(url: str) -> None:
    """Make or update all tables; safe to repeat, and to run from several processes.

    Raises SettingsError where a newer version has been at work.
    """
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = open_database(url)
    try:
        if url.startswith("sqlite"):
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with engine.begin() as connection:
            hold(connection, "tables")  # one process at a time looks and creates
            known = _known_schema(connection)
            if known > SCHEMA:
                raise SettingsError(
                    f"the tables were made by a newer mri-posterior (schema {known}, this one "
                    f"knows {SCHEMA}): install that version again, or restore a backup of this one"
                )
            _add_columns(connection)
            metadata.create_all(connection)
            if known < SCHEMA:
                row = {"version": SCHEMA, "since": time.time()}
                connection.execute(sa.insert(schema_versions).values(**row))
    finally:
        engine.dispose()
    from dbos import DBOS  # lazy: those who only read tables need no engine

    DBOS.migrate(url)


def _known_schema(connection: sa.Connection) -> int:
    """The version of the tables that are there; 0 where it was not recorded."""
    if not sa.inspect(connection).has_table(schema_versions.name):
        return 0
    found = connection.execute(sa.select(sa.func.max(schema_versions.c.version))).scalar()
    return int(found or 0)


def schema_of(connection: sqlite3.Connection) -> int:
    """The same of an SQLite file."""
    try:
        (found,) = connection.execute("SELECT max(version) FROM service_schema").fetchone()
    except sqlite3.OperationalError:
        return 0
    return int(found or 0)


def _add_columns(connection: sa.Connection) -> None:
    """Bring tables of an older version up to date; columns are only ever added, and nullable."""
    look = sa.inspect(connection)
    for table in metadata.sorted_tables:
        if not look.has_table(table.name):
            continue
        known = {column["name"] for column in look.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(
                    f'ALTER TABLE {table.name} ADD COLUMN "{column.name}" {kind}'
                )
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def hold(connection: sa.Connection, name: str) -> None:
    """Be the only one, of all processes, in a transaction that holds this name; until its end.

    To be called before anything else in the transaction.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_advisory(name)})")


@contextmanager
def alone(engine: sa.Engine, name: str) -> Iterator[None]:
    """Be the only one, of all processes, in a block of this name; the tables stay free for others.

    For what is slow: a transaction that holds a name would keep everybody else from writing.
    """
    if engine.dialect.name == "sqlite":
        with _locked_file(Path(engine.url.database or "").parent / "locks" / name):
            yield
        return
    # A connection of its own: those of the pool are for short work.
    own = sa.create_engine(engine.url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with own.connect() as connection:
        number = _advisory(name)
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({number})")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({number})")


@contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                same = False
            if not same:  # who had it before has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _advisory(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def now_after(*moments: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
    """The time; that of the first of these columns which has one, where it is later.

    A clock that is set back lets nothing end before it has begun.
    """
    now = sa.literal(time.time())
    since = sa.func.coalesce(*moments, now)
    return sa.case((since > now, since), else_=now)


def add_to_total(connection: sa.Connection, name: str, label: str, value: float = 1) -> None:
    """Count something, within the caller's transaction."""
    connection.execute(
        sa.text(
            "INSERT INTO service_totals (name, label, value) VALUES (:name, :label, :value) "
            "ON CONFLICT (name, label) DO UPDATE "
            "SET value = service_totals.value + excluded.value"
        ),
        {"name": name, "label": label, "value": value},
    )
