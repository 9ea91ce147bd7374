"""Which slices of a scan are meant."""

from __future__ import annotations

from collections.abc import Sequence

from recon.errors import ScanError


def parse_slices(text: str | None, count: int) -> Sequence[int]:
    """`3`, `3:5` (3 and 4), `:5`, `3:` or a comma-separated list of these; None is all slices."""
    if text is None:
        return range(count)
    chosen: list[int] = []
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        try:
            start = int(first) if first else 0
            stop = (int(last) if last else count) if colon else start + 1
        except ValueError as error:
            raise ScanError(
                "slices", f"'{text}' is not a choice of slices; write 3, 3:5 or 0,2,4"
            ) from error
        if not 0 <= start < stop <= count:
            raise ScanError(
                "slices", f"slices {part.strip()} of a scan with slices 0 to {count - 1}"
            )
        chosen += range(start, stop)
    return sorted(set(chosen))
