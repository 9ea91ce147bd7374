"""What a model makes of right scans, as verdicts go by it."""

from __future__ import annotations

import numpy as np
import structlog

from models.errors import ModelError
from models.registry import read_typical
from models.typical_scans import TypicalTable
from recon.alarm import TypicalScans
from recon.verdict import SURPRISE_SIGMAS

log = structlog.get_logger()


def typical_of(model: str) -> TypicalScans | None:
    """The null distributions of a model's verdicts; None where it has none that serve.

    A table that does not belong to the weights is as none: verdicts then say what they lack.
    """
    try:
        table = read_typical(model)
        return None if table is None else distributions_of(table)
    except ModelError as error:
        log.warning("table of typical scans not usable", model=model, code=error.code)
        return None


def distributions_of(table: TypicalTable) -> TypicalScans:
    """What verdicts are made by. Raises ModelError for a table that does not serve."""
    if table.sigmas != SURPRISE_SIGMAS:
        raise ModelError(
            "typical-levels",
            "the table of typical scans is of other noise levels; make it again with "
            "`models typical`",
        )
    try:
        return TypicalScans(np.array(table.surprises), np.array(table.held_out))
    except ValueError as error:
        raise ModelError(
            "too-few-typical", f"the table of typical scans does not serve ({error}); make it again"
        ) from error
