"""Errors, by what the caller can do about them.

ReconError
├── ScanError          the file or the data in it is not usable: mend or replace the input
├── CalibrationError   noise or coil maps cannot be found: hand them in, or acquire more
└── ConvergenceError   the sampler gave up on a slice: never a wrong image instead
"""

from __future__ import annotations


class ReconError(Exception):
    """A failure with a sentence that says what is wrong and what to do.

    `code` is a short, stable, kebab-case name for programs (for example `external-storage`).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ReconError], tuple[str, str]]:
        return type(self), (self.code, self.message)


class ScanError(ReconError):
    """The input file, or the data in it, is refused."""


class CalibrationError(ReconError):
    """Noise level or coil maps cannot be estimated from this scan."""


class ConvergenceError(ReconError):
    """The sampler left the region where its result means anything."""
