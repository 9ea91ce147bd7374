"""Whether a scan may be sampled as one volume: asked when it is submitted, and by its worker."""

from __future__ import annotations

from recon.volume_size import VolumeCost
from service.problems import ProblemError


def require_room_for_volume(cost: VolumeCost, allowed_bytes: int) -> None:
    """Refuse a volume that needs more memory at once than its worker may use.

    Raises ProblemError.
    """
    if cost.memory_bytes > allowed_bytes:
        raise ProblemError(
            "volume-too-large",
            f"sampling it as one volume needs {_gib(cost.memory_bytes)} of memory at once, and "
            f"{_gib(allowed_bytes)} are allowed; choose fewer slices, or leave `volume` out",
            needed_bytes=cost.memory_bytes,
            allowed_bytes=allowed_bytes,
        )


def _gib(number: int) -> str:
    return f"{number / 2**30:.2g} GiB"
