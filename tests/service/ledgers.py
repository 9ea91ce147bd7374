"""What a running server has written down of its jobs, and settings under which it notices soon."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from tests.service.live import (
    Server,
)

SETTINGS = {"worker_lost_seconds": 1.5, "heartbeat_seconds": 0.3, "max_attempts": 2}


LONG = {"preset": "thorough", "samples": 64}


def ledger(server: Server, job: dict[str, Any]) -> list[dict[str, Any]]:
    file = server.data / "reconstructions" / job["id"] / "steps.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def happened(server: Server, job: dict[str, Any], step: str, what: str) -> bool:
    return any(e["step"] == step and e["what"] == what for e in ledger(server, job))


def recorded(server: Server, job: dict[str, Any]) -> list[tuple[str, float]]:
    """Steps that DBOS has recorded as done, in order, and when (seconds)."""
    with sqlite3.connect(server.data / "service.sqlite") as connection:
        rows = connection.execute(
            "SELECT function_name, completed_at_epoch_ms FROM operation_outputs "
            "WHERE workflow_uuid = ? ORDER BY function_id",
            (job["id"],),
        ).fetchall()
    return [(name, milliseconds / 1000) for name, milliseconds in rows]
