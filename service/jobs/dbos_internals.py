"""What DBOS has no public interface for: the one file to look at when its version is raised.

`TESTED` is the range that `pyproject.toml` allows. Within it both functions are exercised by
`tests/service/test_changes.py` (priorities) and `tests/service/test_durability.py` (recovery).
"""

from __future__ import annotations

import sqlalchemy as sa
from dbos import DBOS, DBOSClient

TESTED = ">=3.4,<3.5"


def recover(executors: list[str]) -> None:
    """Put the unfinished workflows of dead executors back into their queues.

    `resume_workflow` is public, but does not ask whose a workflow is: two executors that bury the
    same dead one could both restart what a third has begun again.
    """
    DBOS._recover_pending_workflows(executors)


def set_priority(
    client: DBOSClient, connection: sa.Connection, workflow_id: str, priority: int
) -> None:
    """Give a workflow that still waits another priority, within the caller's transaction."""
    system = client._sys_db
    system._apply_caller_schema(connection)
    workflows = system.tables.workflow_status
    connection.execute(
        sa.update(workflows)
        .where(workflows.c.workflow_uuid == workflow_id, workflows.c.status == "ENQUEUED")
        .values(priority=priority)
    )
